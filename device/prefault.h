#pragma once

#include <cstddef>
#include <span>
#include <thread>

namespace device {

/// Touches anonymous memory ahead of its use, on a thread of its own: the system gives pages (and clears them) when
/// they are first written, which else is in the middle of a step. What is in the memory stays as it is, and others may
/// use it meanwhile. Where the system cannot do that (Linux before 5.14) or has no memory left, the rest comes when it
/// is used, as without.
class Prefault {
public:
    /// `memory` must outlive this object.
    explicit Prefault(std::span<std::byte> memory);

    /// Waits for the thread; tests.
    void wait() { thread_.join(); }

private:
    std::jthread thread_;  // its end is asked for and waited for by the destructor
};

}  // namespace device
