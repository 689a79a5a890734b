// The disk as a process of its own, which the command and its workers ask before each change. It keeps the record that
// disk.h describes, and takes the power of all of them at once.
#pragma once

#include <sys/types.h>

#include <climits>
#include <cstdint>
#include <string>

namespace power_cut {

enum class Change : uint32_t { create, make_directory, remove_directory, remove, rename, write, truncate, sync, sync_all, end };

// One message; a place where the power can go.
struct Question {
    Change change;
    off_t at = 0;        // of a write; the new length of a truncation
    size_t bytes = 0;    // of a write
    char call[16] = {};  // as the log names it
    char path[PATH_MAX] = {};
    char to[PATH_MAX] = {};  // of a rename
};

// What is asked of the first process by environment variables; see calls.cpp.
std::string setting(const char* name);

// Connects this process to the disk. The first to do so brings the disk's process into being.
class Connection {
public:
    Connection();

    // Returns when the change may be made; `fd` is the open file that it is about, or -1. The others wait until `done`.
    void ask(const Question& question, int fd) const;
    void done(bool happened) const;

private:
    int socket;
};

}  // namespace power_cut
