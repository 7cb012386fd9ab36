#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace gateway {

/// Which of the schedulers of a cluster leads, by what they answered: the one with the highest epoch. Whoever answers
/// with a lower one than was seen leads no more and does not know it; its answers are refused. Pure; not thread-safe.
class LeaderView {
public:
    /// `schedulers` > 0.
    explicit LeaderView(std::size_t schedulers);

    /// Scheduler `index` answered as one that leads. False: it leads no more, and what it said does not count. An epoch
    /// of 0 is one that does not say, and counts.
    [[nodiscard]] bool answered(std::size_t index, std::uint64_t epoch);
    /// It did not answer, or says that it stands by.
    void failed(std::size_t index);

    /// That leads, as far as is known.
    std::optional<std::size_t> leader() const { return leader_; }
    /// Whom to ask: the leader; where none is known, each in turn.
    std::size_t next();
    std::uint64_t epoch() const { return epoch_; }

private:
    const std::size_t schedulers_;
    std::optional<std::size_t> leader_;
    std::uint64_t epoch_ = 0;  // the highest that was seen
    std::size_t turn_ = 0;
};

}  // namespace gateway
