// The card's memory: every allocation between two regions that fault, full of 0xFF (NaN) at first. Where the settings ask
// for it, it is out of the host's reach except while the card works, as on a machine where it lies behind a bus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

namespace cuda_on_cpu {

class DeviceMemory {
public:
    static DeviceMemory& all();

    // Null if the card has no `bytes` left.
    void* allocate(size_t bytes);
    // Whether `address` was the beginning of an allocation. It faults from now on, and is never given out again.
    bool free(void* address);

    // Memory of the host's that the card may read and write.
    void* allocate_host(size_t bytes);
    bool free_host(void* address);

    // Whether all of these bytes lie in one allocation of the card.
    bool holds(const void* address, size_t bytes) const;
    // Whether a kernel may be given this address: in an allocation, or right after one.
    bool reaches(const void* address) const;
    // Whether `address` lies in any region that was ever the card's, or beside one.
    bool is_near(const void* address) const;
    // Whether something was written beside an allocation, in the same page: what is further away faults.
    bool overrun();

    size_t bytes_used() const;

    // While one of these is alive the card's memory can be read and written.
    class Access {
    public:
        Access();
        ~Access();
        Access(const Access&) = delete;
    };

private:
    struct Allocation {
        unsigned char* region;
        size_t region_bytes, bytes;
    };

    void protect_all(int protection) const;

    mutable std::recursive_mutex mutex;
    std::map<const unsigned char*, Allocation> allocations;
    std::map<const unsigned char*, size_t> regions, host;
    size_t used = 0;
    unsigned accesses = 0;
};

}  // namespace cuda_on_cpu
