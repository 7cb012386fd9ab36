#include "engine/late_mask.h"

#include <utility>

#include "base/check.h"

namespace engine {

LateMask::LateMask(std::uint32_t vocabulary) : vocabulary_(vocabulary) {
    CHECK(vocabulary > 0);
}

void LateMask::set(std::vector<std::uint32_t> words) {
    CHECK(words.size() == (std::size_t{vocabulary_} + 31) / 32, words.size() << " words of " << vocabulary_ << " bits");
    give(std::move(words));
}

void LateMask::fail(base::Error error) {
    give(tl::unexpected(std::move(error)));
}

void LateMask::give(base::Result<std::vector<std::uint32_t>> outcome) {
    {
        const std::lock_guard lock(mutex_);
        CHECK(!outcome_.has_value(), "a mask is given once");
        outcome_.emplace(std::move(outcome));
    }
    given_.notify_all();
}

bool LateMask::is_there() const {
    const std::lock_guard lock(mutex_);
    return outcome_.has_value();
}

base::Result<std::span<const std::uint32_t>> LateMask::wait(base::TimePoint deadline) const {
    std::unique_lock lock(mutex_);
    if (!given_.wait_until(lock, deadline, [this] { return outcome_.has_value(); })) {
        return base::fail(base::ErrorCode::deadline_exceeded, "the mask of the tokens that are allowed has not come");
    }
    if (!*outcome_) { return base::pass_on(*outcome_); }
    return std::span<const std::uint32_t>(**outcome_);
}

}  // namespace engine
