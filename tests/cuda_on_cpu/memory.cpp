// Mapping, poisoning and protecting the card's memory, see memory.h.
#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "settings.h"

namespace cuda_on_cpu {

namespace {

constexpr size_t PAGE_BYTES = 4096;
// Out of reach on either side of an allocation: further than an index is likely to be wrong by. It costs addresses alone.
constexpr size_t GUARD_BYTES = 256 << 20;
// As cuMemAlloc promises.
constexpr size_t ALIGNMENT = 256;
constexpr size_t POISON_BYTES = 16 << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// A file full of 0xFF. Memory is a private mapping of it: poisoned, and yet made of no pages until it is written.
int poison_file() {
    static const int file = [] {
        const int made = memfd_create("cuda_on_cpu poison", MFD_CLOEXEC);
        const std::vector<unsigned char> poison(POISON_BYTES, 0xff);
        if (made < 0 || write(made, poison.data(), POISON_BYTES) != ssize_t(POISON_BYTES)) {
            perror("cuda_on_cpu: cannot make poison");
            abort();
        }
        return made;
    }();
    return file;
}

int protection_at_rest() { return settings().host_access_refused ? PROT_NONE : PROT_READ | PROT_WRITE; }

bool map_poisoned(unsigned char* at, size_t bytes) {
    for (size_t done = 0; done < bytes; done += POISON_BYTES) {
        const size_t part = std::min(POISON_BYTES, bytes - done);
        const int kind = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
        if (mmap(at + done, part, protection_at_rest(), kind, poison_file(), 0) == MAP_FAILED) return false;
    }
    return true;
}

unsigned char* reserve(size_t bytes) {
    void* region = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return region == MAP_FAILED ? nullptr : static_cast<unsigned char*>(region);
}

// The entry of an ordered map at or before `address`.
template <class Map>
auto entry_before(Map& map, const void* address) {
    auto after = map.upper_bound(static_cast<const unsigned char*>(address));
    return after == map.begin() ? map.end() : std::prev(after);
}

bool all_poison(const unsigned char* begin, const unsigned char* end) {
    return std::all_of(begin, end, [](unsigned char byte) { return byte == 0xff; });
}

}  // namespace

DeviceMemory& DeviceMemory::all() {
    static DeviceMemory* memory = new DeviceMemory;
    return *memory;
}

void* DeviceMemory::allocate(size_t bytes) {
    std::lock_guard lock(mutex);
    const size_t taken = round_up(bytes, ALIGNMENT), pages = round_up(taken, PAGE_BYTES);
    if (bytes > settings().memory_bytes || used + taken > settings().memory_bytes) return nullptr;
    const size_t region_bytes = pages + 2 * GUARD_BYTES;
    unsigned char* region = reserve(region_bytes);
    if (!region || !map_poisoned(region + GUARD_BYTES, pages)) return nullptr;
    // It ends where the pages end, so that what is read past the end faults.
    unsigned char* address = region + GUARD_BYTES + pages - taken;
    if (accesses) mprotect(region + GUARD_BYTES, pages, PROT_READ | PROT_WRITE);
    allocations[address] = {region, region_bytes, bytes};
    regions[region] = region_bytes;
    used += taken;
    return address;
}

bool DeviceMemory::free(void* address) {
    std::lock_guard lock(mutex);
    auto found = allocations.find(static_cast<unsigned char*>(address));
    if (found == allocations.end()) return false;
    const Allocation& allocation = found->second;
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap(allocation.region, allocation.region_bytes, PROT_NONE, kind, -1, 0);
    used -= round_up(allocation.bytes, ALIGNMENT);
    allocations.erase(found);
    return true;
}

void* DeviceMemory::allocate_host(size_t bytes) {
    std::lock_guard lock(mutex);
    void* address = aligned_alloc(PAGE_BYTES, round_up(std::max<size_t>(bytes, 1), PAGE_BYTES));
    if (!address) return nullptr;
    memset(address, 0xff, bytes);
    host[static_cast<unsigned char*>(address)] = bytes;
    return address;
}

bool DeviceMemory::free_host(void* address) {
    std::lock_guard lock(mutex);
    if (!host.erase(static_cast<unsigned char*>(address))) return false;
    ::free(address);
    return true;
}

bool DeviceMemory::holds(const void* address, size_t bytes) const {
    std::lock_guard lock(mutex);
    auto found = entry_before(allocations, address);
    if (found == allocations.end()) return false;
    const size_t offset = static_cast<const unsigned char*>(address) - found->first;
    return offset <= found->second.bytes && bytes <= found->second.bytes - offset;
}

bool DeviceMemory::reaches(const void* address) const {
    std::lock_guard lock(mutex);
    auto pinned = entry_before(host, address);
    return holds(address, 0) || (pinned != host.end() && address <= pinned->first + pinned->second);
}

bool DeviceMemory::is_near(const void* address) const {
    auto region = entry_before(regions, address);
    return region != regions.end() && address < region->first + region->second;
}

bool DeviceMemory::overrun() {
    std::lock_guard lock(mutex);
    return std::any_of(allocations.begin(), allocations.end(), [](const auto& entry) {
        const auto& [begin, allocation] = entry;
        const unsigned char* pages = allocation.region + GUARD_BYTES;
        const unsigned char* pages_end = allocation.region + allocation.region_bytes - GUARD_BYTES;
        return !all_poison(std::max(pages, begin - ALIGNMENT), begin) ||
               !all_poison(begin + allocation.bytes, pages_end);
    });
}

size_t DeviceMemory::bytes_used() const {
    std::lock_guard lock(mutex);
    return used;
}

void DeviceMemory::protect_all(int protection) const {
    if (!settings().host_access_refused) return;
    for (const auto& [begin, allocation] : allocations) {
        mprotect(allocation.region + GUARD_BYTES, allocation.region_bytes - 2 * GUARD_BYTES, protection);
    }
}

DeviceMemory::Access::Access() {
    DeviceMemory& memory = DeviceMemory::all();
    std::lock_guard lock(memory.mutex);
    if (memory.accesses++ == 0) memory.protect_all(PROT_READ | PROT_WRITE);
}

DeviceMemory::Access::~Access() {
    DeviceMemory& memory = DeviceMemory::all();
    std::lock_guard lock(memory.mutex);
    if (--memory.accesses == 0) memory.protect_all(PROT_NONE);
}

}  // namespace cuda_on_cpu
