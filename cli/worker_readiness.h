#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>

#include "base/clock.h"
#include "gateway/http/ready_parts.h"

namespace cli {

/// What `/ready?verbose` of a worker's process tells: how far its model is while that loads, then what the worker says.
/// Thread-safe.
class WorkerReadiness {
public:
    /// `clock` is borrowed.
    explicit WorkerReadiness(const base::Clock& clock) : clock_(clock) {}

    /// So many bytes of the model have been read.
    void at(std::uint64_t done, std::uint64_t total);
    /// The worker is there, and tells itself from now on.
    void started(std::function<gateway::ReadyParts()> parts);
    gateway::ReadyParts parts() const;

private:
    const base::Clock& clock_;
    mutable std::mutex mutex_;  // guards the next
    std::optional<base::TimePoint> began_at_;
    std::uint64_t done_ = 0;
    std::uint64_t total_ = 0;
    std::function<gateway::ReadyParts()> worker_;
};

}  // namespace cli
