#include "device/prefault.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <stop_token>

namespace device {
namespace {

/// At once, a huge page of x86-64: whoever maps memory or takes a page fault meanwhile may wait for it, and the thread
/// looks in between whether it shall end.
constexpr std::size_t kPieceBytes = std::size_t{2} << 20;
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which headers of Debian 12 may lack
/// A tenth of the processor beside threads that compute on it: no more, since it waits for nobody; no less, since
/// others may wait for the piece that it is at.
constexpr int kNice = 10;

bool touch(std::span<std::byte> memory) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
    const std::uintptr_t begin = at / page * page;
    return madvise(reinterpret_cast<void*>(begin), at + memory.size() - begin, kPopulateWrite) == 0;
}

}  // namespace

Prefault::Prefault(std::span<std::byte> memory, std::size_t ahead)
    : memory_(memory),
      ahead_(ahead),
      wanted_(wanted_for(0)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

/// In whole pieces, so that the thread is woken for one at least.
std::size_t Prefault::wanted_for(std::size_t bytes) const {
    if (ahead_ >= memory_.size() || bytes >= memory_.size() - ahead_) { return memory_.size(); }
    return std::min(memory_.size(), (bytes + ahead_) / kPieceBytes * kPieceBytes);
}

void Prefault::used(std::size_t bytes) {
    const std::size_t wanted = wanted_for(bytes);
    if (wanted <= told_) { return; }
    told_ = wanted;
    {
        const std::lock_guard lock(mutex_);
        wanted_ = std::max(wanted_, wanted);
    }
    more_.notify_one();
}

void Prefault::run(const std::stop_token& stop) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);  // of a thread, on Linux; else it runs as others do
    for (std::size_t at = 0; at < memory_.size();) {
        {
            std::unique_lock lock(mutex_);
            if (!more_.wait(lock, stop, [&] { return wanted_ > at; })) { return; }
        }
        const std::size_t piece = std::min(kPieceBytes, memory_.size() - at);
        if (stop.stop_requested() || !touch(memory_.subspan(at, piece))) { return; }
        touched_ = at += piece;
    }
}

}  // namespace device
