#pragma once

#include <cstdint>

namespace caching {

/// What the search of similar questions brings a category, in seconds: of the model that its hits save, less those of
/// the search and of answers that are generated again. A category that costs more than it brings is looked into seldom
/// until it pays. Not thread-safe.
class CategoryAccount {
public:
    static constexpr std::uint32_t kWindow = 1024;      // searches, after which it is judged by these alone
    static constexpr std::uint32_t kProbeEvery = 64;    // in deficit: one question in so many is searched for,
    static constexpr std::uint32_t kProbesJudged = 16;  // and it is judged after so many of these

    /// Whether the next question is to be searched for.
    bool may_search() { return !is_in_deficit_ || ++passed_over_ % kProbeEvery == 0; }
    /// A search has ended; what it brought was told before.
    void searched(double took_s) {
        spent(took_s);
        if (++searches_ < (is_in_deficit_ ? kProbesJudged : kWindow)) { return; }
        is_in_deficit_ = spent_lately_s_ > earned_lately_s_;
        searches_ = 0;
        earned_lately_s_ = spent_lately_s_ = 0;
    }
    void earned(double seconds) {
        earned_s_ += seconds;
        earned_lately_s_ += seconds;
    }
    void spent(double seconds) {
        spent_s_ += seconds;
        spent_lately_s_ += seconds;
    }

    bool is_in_deficit() const { return is_in_deficit_; }
    /// Since the cache was made.
    double earned_s() const { return earned_s_; }
    double spent_s() const { return spent_s_; }

private:
    bool is_in_deficit_ = false;
    std::uint32_t searches_ = 0;     // since it was judged
    std::uint32_t passed_over_ = 0;  // questions, in deficit
    double earned_lately_s_ = 0;     // since it was judged
    double spent_lately_s_ = 0;      // likewise
    double earned_s_ = 0;
    double spent_s_ = 0;
};

}  // namespace caching
