// Reads the headers of fat binaries, as nvcc 13.0 writes them.
#include "image.h"

#include <cstdint>
#include <cstring>

namespace cuda_on_cpu {

namespace {

constexpr uint32_t FATBIN = 0xba55ed50, ELF = 0x464c457f;
constexpr uint16_t PTX = 1, CUBIN = 2;
// Set for sm_90a and its like, whose code runs on that card and no later one.
constexpr uint64_t ARCHITECTURE_SPECIFIC = 0x100000;

struct FatbinHeader {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;  // of all that follows
};

struct EntryHeader {
    uint16_t kind, unknown;
    uint32_t header_bytes;
    uint64_t bytes;
    uint32_t compressed_bytes, unknown_too;
    uint16_t minor, major;
    uint32_t compute_capability;
    uint32_t name_offset, name_bytes;
    uint64_t flags;
};

bool suits(const EntryHeader& entry, int compute_capability) {
    const int made_for = int(entry.compute_capability);
    if (entry.flags & ARCHITECTURE_SPECIFIC) return made_for == compute_capability;
    if (entry.kind == PTX) return made_for <= compute_capability;
    return entry.kind == CUBIN && made_for / 10 == compute_capability / 10 && made_for <= compute_capability;
}

}  // namespace

Image look_at_image(const void* image, int compute_capability) {
    FatbinHeader header;
    memcpy(&header, image, sizeof header);
    if (header.magic == ELF) return Image::usable;
    if (header.magic != FATBIN) return Image::invalid;
    if (header.bytes == 0) return Image::usable;
    auto at = static_cast<const unsigned char*>(image) + header.header_bytes;
    for (const auto end = at + header.bytes; at < end;) {
        EntryHeader entry;
        memcpy(&entry, at, sizeof entry);
        if (suits(entry, compute_capability)) return Image::usable;
        at += entry.header_bytes + entry.bytes;
    }
    return Image::for_other_cards;
}

}  // namespace cuda_on_cpu
