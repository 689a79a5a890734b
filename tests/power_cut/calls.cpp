// The calls by which a process changes files and makes them durable, each a place where the power can go. Put in
// front with LD_PRELOAD; asked by environment variables:
//
//   POWER_CUT_ROOT=DIR     what lies on the disk that is simulated (without links in its name)
//   POWER_CUT_ASIDE=DIR    an empty folder on the same file system
//   POWER_CUT_AT=N         the power goes just before the N-th call, or, where there are fewer, at the process's end;
//                          without this it stays
//   POWER_CUT_SEED=S       what is lost of that which was not synced, see disk.h
//   POWER_CUT_LOG=FILE     gets the calls, one a line: "pwrite keys/keyring"
//   POWER_CUT_SOCKET=PATH  where the disk listens; nothing is there yet
//
// The process's workers get the library too, and lose their power with it. Nothing is really synced: what the kernel holds is the disk. SQLite's -shm is memory that happens to have a name.
// Memory mapped to files, and the calls named below that nothing here records, end the process.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "disk.h"
#include "process.h"
#include "real.h"

namespace power_cut {

namespace {

std::string working_directory() {
    char path[PATH_MAX];
    if (!getcwd(path, sizeof path)) give_up("finding", "the working directory");
    return path;
}

// Empty where it names nothing.
std::string path_of(int fd) {
    char path[PATH_MAX];
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    const ssize_t length = readlink(link.c_str(), path, sizeof path);
    return length < 0 ? "" : std::string(path, size_t(length));
}

std::string whole(int directory, const char* path) {
    if (path[0] == '/') return path;
    return (directory == AT_FDCWD ? working_directory() : path_of(directory)) + "/" + path;
}

// This process's way to the disk.
class Power {
public:
    bool reaches(const std::string& path) const {
        return path == root || (path.starts_with(root + "/") && !path.ends_with("-shm"));
    }

    // Of an open file that is on the disk; empty for all else.
    std::string path_on_disk(int fd) const {
        struct stat found;
        const int before = errno;
        const bool is_file = fstat(fd, &found) == 0 && (S_ISREG(found.st_mode) || S_ISDIR(found.st_mode));
        const std::string path = is_file ? path_of(fd) : "";
        errno = before;
        return reaches(path) ? path : "";
    }

    // Makes a change where the power lasts until then. `perform` gives what the call gives, -1 where it failed; of `fd`
    // the disk needs to see the file.
    template <class Perform>
    auto change(const Question& question, int fd, Perform perform) {
        const std::lock_guard<std::recursive_mutex> held(mutex);
        connection.ask(question, fd);
        const auto outcome = perform();
        const int error = errno;
        connection.done(outcome != -1);
        errno = error;
        return outcome;
    }

    // What a worker's environment gets.
    const std::vector<std::string> handed = {
        "LD_PRELOAD=" + setting("LD_PRELOAD"),
        "POWER_CUT_ROOT=" + setting("POWER_CUT_ROOT"),
        "POWER_CUT_SOCKET=" + setting("POWER_CUT_SOCKET"),
    };

private:
    // Held by whoever calls: calls go one after another.
    std::recursive_mutex mutex;
    const std::string root = setting("POWER_CUT_ROOT");
    const Connection connection;
};

// Never destroyed: threads may go on while the process ends.
Power& power() {
    static Power& all = *new Power;
    return all;
}

Question question(Change change, const char* call, const std::string& path) {
    Question asked = {.change = change};
    if (path.size() >= sizeof asked.path) give_up("the path is too long:", path);
    memcpy(asked.path, path.c_str(), path.size());
    strncpy(asked.call, call, sizeof asked.call - 1);
    return asked;
}

int truncate_on_disk(int fd, off_t length) {
    Power& power = power_cut::power();
    const std::string path = power.path_on_disk(fd);
    if (path.empty()) return real::ftruncate(fd, length);
    Question asked = question(Change::truncate, "truncate", path);
    asked.at = length;
    const int outcome = power.change(asked, fd, [&] { return real::ftruncate(fd, length); });
    if (outcome != 0) give_up("truncating", path);
    return outcome;
}

int open_on_disk(int directory, const char* name, int flags, mode_t mode) {
    if (!(flags & (O_CREAT | O_TRUNC))) return real::openat(directory, name, flags, mode);
    const std::string path = whole(directory, name);
    Power& power = power_cut::power();
    if (!power.reaches(path)) return real::open(path.c_str(), flags, mode);
    struct stat found;
    if (stat(path.c_str(), &found) != 0 && flags & O_CREAT) {
        return power.change(question(Change::create, "create", path), -1,
                            [&] { return real::open(path.c_str(), flags, mode); });
    }
    // First without cutting it: what is cut must be known.
    const int fd = real::open(path.c_str(), flags & ~O_TRUNC, mode);
    if (fd >= 0 && flags & O_TRUNC && found.st_size > 0) truncate_on_disk(fd, 0);
    return fd;
}

// `perform` writes `count` bytes; where they go is said, or else where the file stands.
template <class Perform>
ssize_t write_on_disk(const char* call, int fd, size_t count, const off_t* said, Perform perform) {
    Power& power = power_cut::power();
    const std::string path = power.path_on_disk(fd);
    if (path.empty() || count == 0) return perform();
    const bool appends = fcntl(fd, F_GETFL) & O_APPEND;
    Question asked = question(Change::write, call, path);
    asked.at = said ? *said : lseek(fd, 0, appends ? SEEK_END : SEEK_CUR);
    asked.bytes = count;
    const ssize_t written = power.change(asked, fd, perform);
    if (written != ssize_t(count)) give_up("writing", path);
    return written;
}

int sync_on_disk(const char* call, int fd) {
    Power& power = power_cut::power();
    const std::string path = power.path_on_disk(fd);
    if (path.empty()) return real::fsync(fd);
    return power.change(question(Change::sync, call, path), fd, [] { return 0; });
}

int rename_on_disk(const std::string& from, const std::string& to) {
    Power& power = power_cut::power();
    const auto perform = [&] { return real::rename(from.c_str(), to.c_str()); };
    if (!power.reaches(from) && !power.reaches(to)) return perform();
    // Named by where it goes.
    Question asked = question(Change::rename, "rename", from);
    if (to.size() >= sizeof asked.to) give_up("the path is too long:", to);
    memcpy(asked.to, to.c_str(), to.size());
    return power.change(asked, -1, perform);
}

int remove_on_disk(const std::string& path) {
    Power& power = power_cut::power();
    const auto perform = [&] { return real::unlink(path.c_str()); };
    struct stat found;
    if (!power.reaches(path) || lstat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) return perform();
    return power.change(question(Change::remove, "remove", path), -1, perform);
}

int make_directory_on_disk(const std::string& path, mode_t mode) {
    Power& power = power_cut::power();
    const auto perform = [&] { return real::mkdir(path.c_str(), mode); };
    struct stat found;
    if (!power.reaches(path) || stat(path.c_str(), &found) == 0) return perform();
    return power.change(question(Change::make_directory, "mkdir", path), -1, perform);
}

int remove_directory_on_disk(const std::string& path) {
    Power& power = power_cut::power();
    const auto perform = [&] { return real::rmdir(path.c_str()); };
    if (!power.reaches(path)) return perform();
    return power.change(question(Change::remove_directory, "rmdir", path), -1, perform);
}

// The environment of a process that is started. A worker loses its power with its warden, which clears its environment;
// the caged reader of documents, which no call lets near a file, is left alone.
class Environment {
public:
    Environment(char* const arguments[], char* const given[]) : given(given) {
        const bool is_worker = arguments[0] && arguments[1] && !strcmp(arguments[1], "worker") && !arguments[2];
        if (!is_worker) return;
        for (char* const* variable = given; *variable; ++variable) all.push_back(*variable);
        for (const std::string& variable : power().handed) all.push_back(const_cast<char*>(variable.c_str()));
        all.push_back(nullptr);
    }

    char* const* get() const { return all.empty() ? given : all.data(); }

private:
    char* const* given;
    std::vector<char*> all;
};

// rustix calls the kernel itself, past this library: the kernel hands over syncfs, and what nothing here records.
constexpr int TRAPPED[] = {SYS_syncfs,   SYS_sync,   SYS_truncate, SYS_fallocate,       SYS_pwritev,
                           SYS_pwritev2, SYS_splice, SYS_sendfile, SYS_copy_file_range, SYS_msync};

#if defined(__x86_64__)
constexpr uint32_t MACHINE = AUDIT_ARCH_X86_64;
greg_t& argument(ucontext_t* context) { return context->uc_mcontext.gregs[REG_RDI]; }
greg_t& result(ucontext_t* context) { return context->uc_mcontext.gregs[REG_RAX]; }
#elif defined(__aarch64__)
constexpr uint32_t MACHINE = AUDIT_ARCH_AARCH64;
auto& argument(ucontext_t* context) { return context->uc_mcontext.regs[0]; }
auto& result(ucontext_t* context) { return context->uc_mcontext.regs[0]; }
#endif

void trapped(int, siginfo_t* info, void* context) {
    Power& power = power_cut::power();
    auto* const registers = static_cast<ucontext_t*>(context);
    if (info->si_syscall != SYS_syncfs) give_up("the call is not simulated:", std::to_string(info->si_syscall));
    const std::string path = power.path_on_disk(int(argument(registers)));
    if (!path.empty()) power.change(question(Change::sync_all, "syncfs", path), -1, [] { return 0; });
    result(registers) = 0;
}

[[gnu::constructor]] void set_traps() {
    // Before any trap: the disk's process needs none.
    power();
    struct sigaction action = {};
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    std::vector<sock_filter> filter = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MACHINE, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
    };
    for (const int call : TRAPPED) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, uint32_t(call), 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
    const bool set = sigaction(SIGSYS, &action, nullptr) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                     prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
    if (!set) give_up("setting a trap for", "syncfs");
}

[[gnu::destructor]] void end() {
    power().change(question(Change::end, "the end", ""), -1, [] { return 0; });
}

mode_t mode_in(int flags, va_list more) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

}  // namespace

}  // namespace power_cut

using namespace power_cut;

// Where files have 64-bit offsets anyway, each call has two names.
#define OPEN(NAME)                                                 \
    extern "C" int NAME(const char* path, int flags, ...) {        \
        va_list more;                                              \
        va_start(more, flags);                                     \
        const mode_t mode = mode_in(flags, more);                  \
        va_end(more);                                              \
        return open_on_disk(AT_FDCWD, path, flags, mode);          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(NAME)                                                    \
    extern "C" int NAME(int directory, const char* path, int flags, ...) { \
        va_list more;                                                   \
        va_start(more, flags);                                          \
        const mode_t mode = mode_in(flags, more);                       \
        va_end(more);                                                   \
        return open_on_disk(directory, path, flags, mode);              \
    }
OPENAT(openat)
OPENAT(openat64)

#define PWRITE(NAME)                                                                        \
    extern "C" ssize_t NAME(int fd, const void* bytes, size_t count, off_t at) {            \
        return write_on_disk("pwrite", fd, count, &at,                                      \
                             [&] { return real::pwrite(fd, bytes, count, at); });           \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

extern "C" ssize_t write(int fd, const void* bytes, size_t count) {
    return write_on_disk("write", fd, count, nullptr, [&] { return real::write(fd, bytes, count); });
}

extern "C" ssize_t writev(int fd, const iovec* pieces, int count) {
    size_t bytes = 0;
    for (int i = 0; i < count; ++i) bytes += pieces[i].iov_len;
    return write_on_disk("writev", fd, bytes, nullptr, [&] { return real::writev(fd, pieces, count); });
}

extern "C" int ftruncate(int fd, off_t length) noexcept { return truncate_on_disk(fd, length); }
extern "C" int ftruncate64(int fd, off_t length) noexcept { return truncate_on_disk(fd, length); }

extern "C" int fsync(int fd) { return sync_on_disk("fsync", fd); }
extern "C" int fdatasync(int fd) { return sync_on_disk("fdatasync", fd); }

extern "C" int rename(const char* from, const char* to) noexcept {
    return rename_on_disk(whole(AT_FDCWD, from), whole(AT_FDCWD, to));
}

extern "C" int renameat(int from_directory, const char* from, int to_directory, const char* to) noexcept {
    return rename_on_disk(whole(from_directory, from), whole(to_directory, to));
}

extern "C" int unlink(const char* path) noexcept { return remove_on_disk(whole(AT_FDCWD, path)); }

extern "C" int unlinkat(int directory, const char* path, int flags) noexcept {
    const std::string named = whole(directory, path);
    return flags & AT_REMOVEDIR ? remove_directory_on_disk(named) : remove_on_disk(named);
}

extern "C" int rmdir(const char* path) noexcept { return remove_directory_on_disk(whole(AT_FDCWD, path)); }

extern "C" int mkdir(const char* path, mode_t mode) noexcept {
    return make_directory_on_disk(whole(AT_FDCWD, path), mode);
}

extern "C" int mkdirat(int directory, const char* path, mode_t mode) noexcept {
    return make_directory_on_disk(whole(directory, path), mode);
}

#define MMAP(NAME)                                                                                             \
    extern "C" void* NAME(void* address, size_t length, int protection, int flags, int fd, off_t at) noexcept { \
        const bool writes = fd >= 0 && flags & MAP_SHARED && protection & PROT_WRITE;                           \
        if (writes && !power().path_on_disk(fd).empty()) give_up("memory is mapped to", power().path_on_disk(fd)); \
        return real::mmap(address, length, protection, flags, fd, at);                                          \
    }
MMAP(mmap)
MMAP(mmap64)

extern "C" int posix_spawnp(pid_t* process, const char* program, const posix_spawn_file_actions_t* actions,
                            const posix_spawnattr_t* attributes, char* const arguments[], char* const variables[]) {
    const Environment environment(arguments, variables);
    return real::posix_spawnp(process, program, actions, attributes, arguments, environment.get());
}
