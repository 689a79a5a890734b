// The system's calls, found behind this library; see real.h.
#include "real.h"

#include <dlfcn.h>
#include <fcntl.h>

#include "disk.h"

namespace power_cut::real {

namespace {

template <class Call>
Call* next(const char* name) {
    if (void* found = dlsym(RTLD_NEXT, name)) return reinterpret_cast<Call*>(found);
    give_up("finding the call", name);
}

}  // namespace

int openat(int directory, const char* path, int flags, mode_t mode) {
    static const auto call = next<int(int, const char*, int, ...)>("openat64");
    return call(directory, path, flags, mode);
}

int open(const char* path, int flags, mode_t mode) {
    return openat(AT_FDCWD, path, flags, mode);
}

ssize_t pread(int fd, void* bytes, size_t count, off_t at) {
    static const auto call = next<ssize_t(int, void*, size_t, off_t)>("pread64");
    return call(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void* bytes, size_t count, off_t at) {
    static const auto call = next<ssize_t(int, const void*, size_t, off_t)>("pwrite64");
    return call(fd, bytes, count, at);
}

ssize_t write(int fd, const void* bytes, size_t count) {
    static const auto call = next<ssize_t(int, const void*, size_t)>("write");
    return call(fd, bytes, count);
}

ssize_t writev(int fd, const iovec* pieces, int count) {
    static const auto call = next<ssize_t(int, const iovec*, int)>("writev");
    return call(fd, pieces, count);
}

int ftruncate(int fd, off_t length) {
    static const auto call = next<int(int, off_t)>("ftruncate64");
    return call(fd, length);
}

int rename(const char* from, const char* to) {
    static const auto call = next<int(const char*, const char*)>("rename");
    return call(from, to);
}

int unlink(const char* path) {
    static const auto call = next<int(const char*)>("unlink");
    return call(path);
}

int mkdir(const char* path, mode_t mode) {
    static const auto call = next<int(const char*, mode_t)>("mkdir");
    return call(path, mode);
}

int rmdir(const char* path) {
    static const auto call = next<int(const char*)>("rmdir");
    return call(path);
}

int fsync(int fd) {
    static const auto call = next<int(int)>("fsync");
    return call(fd);
}

void* mmap(void* address, size_t length, int protection, int flags, int fd, off_t at) {
    static const auto call = next<void*(void*, size_t, int, int, int, off_t)>("mmap64");
    return call(address, length, protection, flags, fd, at);
}

int posix_spawnp(pid_t* process, const char* program, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const arguments[], char* const variables[]) {
    static const auto call = next<decltype(::posix_spawnp)>("posix_spawnp");
    return call(process, program, actions, attributes, arguments, variables);
}

}  // namespace power_cut::real
