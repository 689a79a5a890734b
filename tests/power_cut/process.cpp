// The disk's process, and the way to it: see process.h.
#include "process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "disk.h"
#include "real.h"

namespace power_cut {

namespace {

constexpr int LISTENING_MAX = 64;

sockaddr_un address() {
    sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = {}};
    const std::string path = setting("POWER_CUT_SOCKET");
    if (path.empty() || path.size() >= sizeof at.sun_path) give_up("finding the disk's socket", path);
    memcpy(at.sun_path, path.c_str(), path.size());
    return at;
}

int new_socket() {
    const int made = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (made < 0) give_up("making", "a socket");
    return made;
}

bool is_connected(int socket, const sockaddr_un& at) {
    return connect(socket, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0;
}

// A message, and the file that comes with it.
union Attached {
    cmsghdr head;
    char bytes[CMSG_SPACE(sizeof(int))];
};

bool send_question(int socket, const Question& question, int fd) {
    iovec piece = {const_cast<Question*>(&question), sizeof question};
    Attached attached = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (fd >= 0) {
        message.msg_control = attached.bytes;
        message.msg_controllen = sizeof attached.bytes;
        attached.head = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&attached.head), &fd, sizeof fd);
    }
    return sendmsg(socket, &message, MSG_NOSIGNAL) == ssize_t(sizeof question);
}

// False where nobody asks any more.
bool receive_question(int socket, Question& question, int& fd) {
    iovec piece = {&question, sizeof question};
    Attached attached = {};
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = attached.bytes;
    message.msg_controllen = sizeof attached.bytes;
    fd = -1;
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != ssize_t(sizeof question)) return false;
    const cmsghdr* head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS) memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return true;
}

// A process that writes to the disk.
struct Writer {
    int socket;
    int process;  // a descriptor of it
};

class DiskProcess {
public:
    explicit DiskProcess(int listening) : listening(listening) {}

    // Until the first process is gone.
    [[noreturn]] void serve() {
        for (;;) {
            std::vector<pollfd> ready = {{listening, POLLIN, 0}};
            for (const Writer& writer : writers) ready.push_back({writer.socket, POLLIN, 0});
            if (poll(ready.data(), ready.size(), -1) < 0) give_up("waiting for", "a question");
            // From the last, since answering may take one away.
            for (size_t i = ready.size() - 1; i > 0; --i) {
                if (ready[i].revents) answer(i - 1);
            }
            if (ready[0].revents) let_in();
        }
    }

private:
    void let_in() {
        const int socket = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
        ucred who;
        socklen_t length = sizeof who;
        if (socket < 0 || getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) give_up("letting in", "a process");
        const int process = int(syscall(SYS_pidfd_open, who.pid, 0));
        if (process < 0) give_up("looking at process", std::to_string(who.pid));
        writers.push_back({socket, process});
    }

    void answer(size_t number) {
        const Writer writer = writers[number];
        Question question;
        int fd;
        if (!receive_question(writer.socket, question, fd)) return let_go(number);
        const std::string path = question.path;
        if (question.change != Change::end) {
            place(question.call, question.change == Change::rename ? question.to : path);
            before(question, path, fd);
        } else if (number == 0) {
            end();
        }
        const char go = 1;
        char happened = 0;
        const bool heard = send(writer.socket, &go, 1, MSG_NOSIGNAL) == 1;
        // Whoever is gone by then made the change, as far as can be known.
        if (!heard || recv(writer.socket, &happened, 1, 0) != 1) happened = 1;
        after(question, path, happened);
        if (fd >= 0) close(fd);
    }

    void before(const Question& question, const std::string& path, int fd) {
        switch (question.change) {
            case Change::write: return disk.will_write(fd, path, question.at, question.bytes);
            case Change::truncate: return disk.will_truncate(fd, path, question.at);
            case Change::remove: return disk.will_remove(path);
            case Change::rename: return disk.will_rename(path, question.to);
            case Change::sync: return disk.synced(fd);
            // All that lies with it directly below the root.
            case Change::sync_all: return disk.synced_all(path.substr(0, path.find('/', root.size() + 1)));
            default: return;
        }
    }

    void after(const Question& question, const std::string& path, bool happened) {
        switch (question.change) {
            case Change::remove:
            case Change::rename: return disk.confirm(happened);
            case Change::create: return happened ? disk.made_file(path) : void();
            case Change::make_directory: return happened ? disk.made_directory(path) : void();
            case Change::remove_directory: return happened ? disk.removed_directory(path) : void();
            default: return;
        }
    }

    void place(const char* call, const std::string& path) {
        log += std::string(call) + " " + (path == root ? "." : path.substr(root.size() + 1)) + "\n";
        if (++places == at) cut();
    }

    void end() {
        log += "the end\n";
        if (at != 0) cut();
        write_log();
    }

    void let_go(size_t number) {
        close(writers[number].socket);
        close(writers[number].process);
        writers.erase(writers.begin() + std::ptrdiff_t(number));
        if (number == 0) _exit(0);
    }

    [[noreturn]] void cut() {
        // Whoever was in the middle of a change has been heard to the end of it: nobody changes anything now.
        for (const Writer& writer : writers) syscall(SYS_pidfd_send_signal, writer.process, SIGKILL, nullptr, 0);
        for (const Writer& writer : writers) {
            pollfd ended = {writer.process, POLLIN, 0};
            while (poll(&ended, 1, -1) < 0 && errno == EINTR) {}
        }
        Chance chance(strtoull(setting("POWER_CUT_SEED").c_str(), nullptr, 10));
        disk.lose(chance);
        write_log();
        _exit(0);
    }

    void write_log() const {
        const std::string path = setting("POWER_CUT_LOG");
        const int file = real::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (file < 0 || real::pwrite(file, log.data(), log.size(), 0) < 0) give_up("writing", path);
    }

    const int listening;
    const std::string root = setting("POWER_CUT_ROOT");
    const uint64_t at = strtoull(setting("POWER_CUT_AT").c_str(), nullptr, 10);
    Disk disk{setting("POWER_CUT_ASIDE")};
    std::vector<Writer> writers;  // the first process, then its workers
    uint64_t places = 0;
    std::string log;
};

// The child keeps the disk, and outlives whom it serves. It must not hold their end, `socket`, open.
void begin_disk(const sockaddr_un& at, int socket) {
    const int listening = new_socket();
    const bool listens = bind(listening, reinterpret_cast<const sockaddr*>(&at), sizeof at) == 0 &&
                         listen(listening, LISTENING_MAX) == 0;
    if (!listens) give_up("listening at", at.sun_path);
    switch (fork()) {
        case -1: give_up("starting", "the disk's process");
        case 0: close(socket); setsid(); DiskProcess(listening).serve();
        default: close(listening);
    }
}

}  // namespace

std::string setting(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}

Connection::Connection() : socket(new_socket()) {
    const sockaddr_un at = address();
    if (is_connected(socket, at)) return;
    begin_disk(at, socket);
    if (!is_connected(socket, at)) give_up("reaching", at.sun_path);
}

void Connection::ask(const Question& question, int fd) const {
    char go;
    if (!send_question(socket, question, fd) || recv(socket, &go, 1, 0) != 1) give_up("asking the disk about", question.path);
}

void Connection::done(bool happened) const {
    const char said = happened;
    if (send(socket, &said, 1, MSG_NOSIGNAL) != 1) give_up("telling", "the disk");
}

}  // namespace power_cut
