// The record of what is not durable, and its undoing: see disk.h.
#include "disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "real.h"

namespace power_cut {

namespace {

constexpr off_t SECTOR_BYTES = 512;

struct stat look(int fd) {
    struct stat found;
    if (fstat(fd, &found) != 0) give_up("looking at", std::to_string(fd));
    return found;
}

Node node(const struct stat& found) {
    return {found.st_dev, found.st_ino};
}

std::string read(int fd, off_t at, size_t bytes, const std::string& path) {
    std::string content(bytes, 0);
    if (real::pread(fd, content.data(), bytes, at) != ssize_t(bytes)) give_up("reading", path);
    return content;
}

void write(int fd, off_t at, const char* bytes, size_t count, const std::string& path) {
    if (real::pwrite(fd, bytes, count, at) != ssize_t(count)) give_up("writing", path);
}

void set_length(int fd, off_t length, const std::string& path) {
    if (real::ftruncate(fd, length) != 0) give_up("truncating", path);
}

// What is gone by a later change that was durable stays gone.
void must(int outcome, const char* what, const std::string& path) {
    if (outcome != 0 && errno != ENOENT) give_up(what, path);
}

bool is_below(const std::string& path, const std::string& top) {
    return path == top || path.starts_with(top + "/");
}

}  // namespace

void give_up(const char* what, const std::string& path) {
    fprintf(stderr, "power cut: %s %s: %s\n", what, path.c_str(), strerror(errno));
    abort();
}

uint64_t Chance::below(uint64_t limit) {
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % limit;
}

Disk::File& Disk::file(int fd, const std::string& path) {
    const Node of = node(look(fd));
    const auto found = files.find(of);
    if (found != files.end()) return found->second;
    return keep_open(of, "/proc/self/fd/" + std::to_string(fd), path);
}

Disk::File& Disk::keep_open(const Node& of, const std::string& opened, const std::string& path) {
    const int own = real::open(opened.c_str(), O_RDWR | O_CLOEXEC);
    if (own < 0) give_up("opening", path);
    return files[of] = {own, path, {}};
}

void Disk::will_write(int fd, const std::string& path, off_t at, size_t bytes) {
    File& written = file(fd, path);
    const off_t length = look(fd).st_size, end = at + off_t(bytes);
    const size_t there = at < length ? size_t(std::min(end, length) - at) : 0;
    written.unsynced.push_back(
        {false, at, bytes, read(written.fd, at, there, path), length, std::max(end, length), {}});
}

void Disk::will_truncate(int fd, const std::string& path, off_t length) {
    File& cut = file(fd, path);
    const off_t before = look(fd).st_size;
    const size_t gone = length < before ? size_t(before - length) : 0;
    cut.unsynced.push_back({true, length, 0, read(cut.fd, length, gone, path), before, length, {}});
}

void Disk::synced(int fd) {
    const Node of = node(look(fd));
    if (const auto found = files.find(of); found != files.end()) found->second.unsynced.clear();
    const auto durable =
        std::stable_partition(entries.begin(), entries.end(), [&](const Entry& e) { return e.directory != of; });
    forget({durable, entries.end()});
    entries.erase(durable, entries.end());
}

void Disk::synced_all(const std::string& top) {
    for (auto& [_, file] : files) {
        if (is_below(file.path, top)) file.unsynced.clear();
    }
    const auto durable = std::stable_partition(
        entries.begin(), entries.end(), [&](const Entry& e) { return !is_below(e.path, top); });
    forget({durable, entries.end()});
    entries.erase(durable, entries.end());
}

void Disk::forget(const std::vector<Entry>& durable) {
    for (const Entry& entry : durable) {
        if (!entry.kept.empty()) must(real::unlink(entry.kept.c_str()), "letting go of", entry.kept);
    }
}

Disk::Entry Disk::entry(Kind kind, const std::string& path) {
    struct stat found;
    const std::string directory = path.substr(0, path.rfind('/'));
    if (stat(directory.c_str(), &found) != 0) give_up("looking at", directory);
    return {kind, node(found), path, {}, {}};
}

void Disk::made_file(const std::string& path) {
    struct stat found;
    if (stat(path.c_str(), &found) != 0) give_up("looking at", path);
    keep_open(node(found), path, path);
    entries.push_back(entry(Kind::made_file, path));
}

void Disk::made_directory(const std::string& path) {
    entries.push_back(entry(Kind::made_directory, path));
}

void Disk::removed_directory(const std::string& path) {
    entries.push_back(entry(Kind::removed_directory, path));
}

std::string Disk::name_aside() {
    return aside + "/" + std::to_string(names_aside++);
}

// A second name for a file that is about to lose its own.
std::string Disk::keep(const std::string& path) {
    const std::string name = name_aside();
    if (link(path.c_str(), name.c_str()) == 0) return name;
    if (errno != ENOENT) give_up("keeping", path);
    return {};
}

void Disk::will_remove(const std::string& path) {
    entries.push_back(entry(Kind::removed_file, path));
    entries.back().kept = keep(path);
}

void Disk::will_rename(const std::string& from, const std::string& to) {
    entries.push_back(entry(Kind::renamed, to));
    entries.back().path = from;
    entries.back().to = to;
    struct stat found;
    if (stat(to.c_str(), &found) == 0 && S_ISREG(found.st_mode)) entries.back().kept = keep(to);
}

void Disk::confirm(bool happened) {
    if (happened) return;
    forget({entries.back()});
    entries.pop_back();
}

void Disk::lose(Chance& chance) {
    for (auto& [_, file] : files) lose(file, chance);
    size_t left = chance.below(entries.size() + 1);
    // The two ends are likelier than what lies between.
    if (const uint64_t mood = chance.below(4); mood < 2) left = mood == 0 ? 0 : entries.size();
    for (; entries.size() > left; entries.pop_back()) undo(entries.back());
}

void Disk::undo(const Entry& entry) {
    const char *path = entry.path.c_str(), *to = entry.to.c_str(), *kept = entry.kept.c_str();
    switch (entry.kind) {
        case Kind::made_file:
            must(real::unlink(path), "losing", entry.path);
            break;
        case Kind::made_directory:
            // With all that is in it, durable or not: there is no way to it.
            must(real::rename(path, name_aside().c_str()), "losing", entry.path);
            break;
        case Kind::removed_file:
            must(real::rename(kept, path), "putting back", entry.path);
            break;
        case Kind::removed_directory:
            must(real::mkdir(path, 0700), "putting back", entry.path);
            break;
        case Kind::renamed:
            must(real::rename(to, path), "renaming back", entry.to);
            if (!entry.kept.empty()) must(real::rename(kept, to), "putting back", entry.to);
            break;
    }
}

void Disk::lose(File& file, Chance& chance) {
    std::vector<Change>& changes = file.unsynced;
    // Back to what was synced; what each change wrote lies there just before it is undone.
    for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
        if (!change->truncates) change->after = read(file.fd, change->at, change->bytes, file.path);
        set_length(file.fd, change->length_before, file.path);
        write(file.fd, change->at, change->before.data(), change->before.size(), file.path);
    }
    // Often all of a file goes, or stays; else each change for itself.
    const uint64_t mood = chance.below(4);
    for (const Change& change : changes) {
        const Fate fate = mood < 2 ? Fate(mood) : Fate(chance.below(4));
        if (!change.truncates) {
            keep_some(file, change, fate, chance);
        } else if (fate == Fate::kept) {
            set_length(file.fd, change.length_after, file.path);
        } else {
            return;
        }
    }
}

void Disk::keep_some(const File& file, const Change& change, Fate fate, Chance& chance) {
    const off_t end = change.at + off_t(change.bytes);
    const off_t first = change.at / SECTOR_BYTES, sectors = (end - 1) / SECTOR_BYTES + 1 - first;
    const off_t before = look(file.fd).st_size, torn_at = first + off_t(chance.below(uint64_t(sectors)));
    for (off_t sector = first; sector < first + sectors; ++sector) {
        const bool stays = fate == Fate::kept || (fate == Fate::torn && sector < torn_at) ||
                           (fate == Fate::scattered && chance.coin());
        if (!stays) continue;
        const off_t from = std::max(change.at, sector * SECTOR_BYTES);
        const off_t to = std::min(end, (sector + 1) * SECTOR_BYTES);
        write(file.fd, from, change.after.data() + (from - change.at), size_t(to - from), file.path);
    }
    if (fate == Fate::kept) return;
    // A file's length is written apart from its bytes.
    const off_t longest = std::max(look(file.fd).st_size, change.length_after);
    if (const uint64_t mood = chance.below(3); mood < 2) set_length(file.fd, mood == 0 ? longest : before, file.path);
}

}  // namespace power_cut
