#include "gateway/keys/quota.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace gateway {
namespace {

constexpr double kMinuteS = 60;

double seconds(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

base::Duration duration_of(double count_s) {
    return std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(count_s));
}

/// The allowance of a bound that may be none, may have come, or may have changed.
void set_bound(std::optional<MinuteAllowance>& allowance, std::uint64_t per_minute, base::TimePoint now) {
    if (per_minute == 0) {
        allowance.reset();
    } else if (!allowance) {
        allowance.emplace(static_cast<double>(per_minute), now);
    } else {
        allowance->set_bound(static_cast<double>(per_minute));
    }
}

}  // namespace

void MinuteAllowance::fill(base::TimePoint now) {
    if (now > at_) {
        left_ += seconds(now - at_) / kMinuteS * per_minute_;
        at_ = now;
    }
    left_ = std::min(left_, per_minute_);
}

bool MinuteAllowance::take(double count, base::TimePoint now) {
    fill(now);
    if (left_ < std::min(count, per_minute_)) { return false; }
    left_ -= count;
    return true;
}

void MinuteAllowance::settle(double count, base::TimePoint now) {
    fill(now);
    left_ = std::min(left_ + count, per_minute_);
}

double MinuteAllowance::left(base::TimePoint now) {
    fill(now);
    return std::max(left_, 0.0);
}

base::Duration MinuteAllowance::wait(double count, base::TimePoint now) {
    fill(now);
    const double lacking = std::min(count, per_minute_) - left_;
    return lacking <= 0 ? base::Duration::zero() : duration_of(lacking / per_minute_ * kMinuteS);
}

base::Duration MinuteAllowance::until_full(base::TimePoint now) {
    fill(now);
    return duration_of((per_minute_ - left_) / per_minute_ * kMinuteS);
}

QuotaBook::Hold::~Hold() {
    const std::scoped_lock lock(book_->mutex_);
    if (is_settled_) { return; }
    State& state = book_->states_[id_];
    --state.in_work;
    // Nobody says what it used: what was reserved counts.
}

std::optional<QuotaBook::Refusal> QuotaBook::Hold::reserve(std::uint64_t tokens, base::TimePoint now) {
    const std::scoped_lock lock(book_->mutex_);
    State& state = book_->states_[id_];
    if (!state.tokens || is_settled_) { return std::nullopt; }
    const auto count = static_cast<double>(tokens);
    if (!state.tokens->take(count, now)) { return Refusal{Bound::tokens, state.tokens->wait(count, now)}; }
    reserved_ = count;
    return std::nullopt;
}

void QuotaBook::Hold::settle(std::uint64_t tokens, base::TimePoint now) {
    const std::scoped_lock lock(book_->mutex_);
    if (std::exchange(is_settled_, true)) { return; }
    State& state = book_->states_[id_];
    --state.in_work;
    if (state.tokens) { state.tokens->settle(reserved_ - static_cast<double>(tokens), now); }
}

QuotaBook::Standing QuotaBook::Hold::standing(base::TimePoint now) const {
    const std::scoped_lock lock(book_->mutex_);
    return book_->standing_of(book_->states_[id_], now);
}

QuotaBook::Standing QuotaBook::standing_of(State& state, base::TimePoint now) {
    const auto one = [now](std::optional<MinuteAllowance>& allowance) -> std::optional<Standing::One> {
        if (!allowance) { return std::nullopt; }
        return Standing::One{.limit = static_cast<std::uint64_t>(allowance->bound()),
                             .remaining = static_cast<std::uint64_t>(std::floor(allowance->left(now))),
                             .reset = allowance->until_full(now)};
    };
    return {.requests = one(state.requests), .tokens = one(state.tokens)};
}

tl::expected<std::shared_ptr<QuotaBook::Hold>, QuotaBook::Refusal> QuotaBook::open(const ApiKey& key,
                                                                                   base::TimePoint now) {
    // A second is when most requests end; nobody knows better when one of a key's will.
    constexpr base::Duration kBusy = std::chrono::seconds(1);
    const std::scoped_lock lock(mutex_);
    State& state = states_[key.id];
    set_bound(state.requests, key.requests_per_minute, now);
    set_bound(state.tokens, key.tokens_per_minute, now);
    if (key.concurrent > 0 && state.in_work >= key.concurrent) {
        return tl::unexpected<Refusal>(Refusal{Bound::concurrent, kBusy});
    }
    if (state.tokens && state.tokens->left(now) < 1) {
        return tl::unexpected<Refusal>(Refusal{Bound::tokens, state.tokens->wait(1, now)});
    }
    if (state.requests && !state.requests->take(1, now)) {
        return tl::unexpected<Refusal>(Refusal{Bound::requests, state.requests->wait(1, now)});
    }
    ++state.in_work;
    return std::shared_ptr<Hold>(new Hold(shared_from_this(), key.id));
}

void QuotaBook::forget_others(const std::vector<ApiKey>& keys) {
    std::set<std::string_view> kept;
    for (const ApiKey& key : keys) {
        kept.insert(key.id);
    }
    const std::scoped_lock lock(mutex_);
    std::erase_if(states_, [&](const auto& entry) { return !kept.contains(entry.first) && entry.second.in_work == 0; });
}

std::string_view bound_name(QuotaBook::Bound bound) {
    switch (bound) {
        case QuotaBook::Bound::requests:
            return "requests";
        case QuotaBook::Bound::tokens:
            return "tokens";
        default:
            return "concurrent";
    }
}

}  // namespace gateway
