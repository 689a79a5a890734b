// What a disk holds, and what it may have lost when the power goes.
//
// The product's calls go to the real file system at once. Beside it stands a record of all that no sync has made
// durable: the bytes that each write replaced, and the directory entries that came and went. A power cut undoes of that
// record what a seed says, as a disk is free to do:
//
//   - Of a file's writes since its last fsync or fdatasync each is kept, lost, torn at a 512-byte sector, or kept in
//     some of its sectors; its length, which is written apart, may be the old one or, with zeros in it, the new. What a
//     lost truncation made room for is lost with it.
//   - Entries (a file or directory made, renamed, removed) whose directory was not synced since are lost from some
//     moment on, in the order in which they were made: a journal keeps that order, and nothing else. To sync a file is
//     not to sync its entry.
//   - syncfs makes all of one disk durable; each name directly below the root is a disk of its own.
//
// This is less than Linux's file systems promise, and all that POSIX does.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace power_cut {

// A file or directory, under whatever name.
struct Node {
    dev_t device;
    ino_t number;
    auto operator<=>(const Node&) const = default;
};

// SplitMix64.
class Chance {
public:
    explicit Chance(uint64_t seed) : state(seed) {}
    uint64_t below(uint64_t limit);
    bool coin() { return below(2) == 0; }

private:
    uint64_t state;
};

class Disk {
public:
    // `aside` is a folder on the same file system, for files whose names were taken away.
    explicit Disk(std::string aside) : aside(std::move(aside)) {}

    // Before a write or a truncation of the open file `fd`, whose path is `path`.
    void will_write(int fd, const std::string& path, off_t at, size_t bytes);
    void will_truncate(int fd, const std::string& path, off_t length);
    void synced(int fd);

    // After what makes names, and around what takes them: that keeps what loses its name.
    void made_file(const std::string& path);
    void made_directory(const std::string& path);
    void removed_directory(const std::string& path);
    void will_remove(const std::string& path);
    void will_rename(const std::string& from, const std::string& to);
    void confirm(bool happened);

    // Everything at or below `top` is durable.
    void synced_all(const std::string& top);

    // Undoes what the disk did not hold yet.
    void lose(Chance& chance);

private:
    struct Change {
        bool truncates;
        off_t at;
        size_t bytes;
        std::string before;  // what lay from `at` on
        off_t length_before, length_after;
        std::string after;  // filled in while it is undone
    };

    struct File {
        int fd;  // of our own, for reading and writing
        std::string path;
        std::vector<Change> unsynced;
    };

    enum class Kind { made_file, made_directory, removed_file, removed_directory, renamed };

    struct Entry {
        Kind kind;
        Node directory;
        std::string path;
        std::string to;    // where it was renamed to
        std::string kept;  // the file that lost its name, where there was one
    };

    enum class Fate { kept, lost, torn, scattered };

    File& file(int fd, const std::string& path);
    File& keep_open(const Node& of, const std::string& opened, const std::string& path);
    Entry entry(Kind kind, const std::string& path);
    std::string name_aside();
    std::string keep(const std::string& path);
    void forget(const std::vector<Entry>& durable);
    void undo(const Entry& entry);
    static void lose(File& file, Chance& chance);
    static void keep_some(const File& file, const Change& change, Fate fate, Chance& chance);

    std::string aside;
    uint64_t names_aside = 0;
    std::map<Node, File> files;
    std::vector<Entry> entries;  // that are not durable, the oldest first
};

// Ends the test: the simulation itself went wrong.
[[noreturn]] void give_up(const char* what, const std::string& path);

}  // namespace power_cut
