#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace engine {

/// Which tokens a sequence may get next: what a grammar says. It may arrive late: one thread makes it while the forward
/// pass runs, the engine waits for it only when it has the logits. Given once. Thread-safe.
class LateMask {
public:
    /// `vocabulary` > 0 tokens.
    explicit LateMask(std::uint32_t vocabulary);
    LateMask(const LateMask&) = delete;
    LateMask& operator=(const LateMask&) = delete;

    /// Bit t % 32 of word t / 32: token t may be chosen. ceil(vocabulary / 32) words.
    void set(std::vector<std::uint32_t> words);
    /// There will be no mask: the sequence ends with this error.
    void fail(base::Error error);

    /// Whether wait() would not wait.
    bool is_there() const;
    /// The words of set(), valid as long as this. Error: that of fail(); deadline_exceeded.
    base::Result<std::span<const std::uint32_t>> wait(base::TimePoint deadline) const;

private:
    void give(base::Result<std::vector<std::uint32_t>> outcome);

    const std::uint32_t vocabulary_;
    mutable std::mutex mutex_;
    mutable std::condition_variable given_;
    std::optional<base::Result<std::vector<std::uint32_t>>> outcome_;  // guarded by mutex_; once there it stays
};

}  // namespace engine
