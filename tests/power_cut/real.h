// The calls as the system has them: what this library calls must not come back to it.
#pragma once

#include <spawn.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace power_cut::real {

int openat(int directory, const char* path, int flags, mode_t mode);
int open(const char* path, int flags, mode_t mode = 0);
ssize_t pread(int fd, void* bytes, size_t count, off_t at);
ssize_t pwrite(int fd, const void* bytes, size_t count, off_t at);
ssize_t write(int fd, const void* bytes, size_t count);
ssize_t writev(int fd, const iovec* pieces, int count);
int ftruncate(int fd, off_t length);
int rename(const char* from, const char* to);
int unlink(const char* path);
int mkdir(const char* path, mode_t mode);
int rmdir(const char* path);
int fsync(int fd);
void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t at);
int posix_spawnp(pid_t* process, const char* program, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const arguments[], char* const variables[]);

}  // namespace power_cut::real
