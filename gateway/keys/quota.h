#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/clock.h"
#include "gateway/keys/api_key.h"

namespace gateway {

/// An allowance that fills steadily, `per_minute` a minute, and holds a minute's worth. What was promised and came out
/// dearer makes a debt, which is filled up first. Pure: time is handed in.
class MinuteAllowance {
public:
    MinuteAllowance(double per_minute, base::TimePoint now) : per_minute_(per_minute), left_(per_minute), at_(now) {}

    /// The bound may change between two calls; what is left stays, up to the new bound.
    void set_bound(double per_minute) { per_minute_ = per_minute; }
    /// Takes `count`, or all of a full allowance where that is less (so that what exceeds a minute's worth is possible
    /// at all). False: not yet; nothing is taken.
    bool take(double count, base::TimePoint now);
    /// Gives back what was not used, or takes what was used beyond what was promised (`count` below zero).
    void settle(double count, base::TimePoint now);

    double bound() const { return per_minute_; }
    double left(base::TimePoint now);
    /// Until take(count) would be true.
    base::Duration wait(double count, base::TimePoint now);
    /// Until it is full.
    base::Duration until_full(base::TimePoint now);

private:
    void fill(base::TimePoint now);

    double per_minute_;
    double left_;
    base::TimePoint at_;
};

/// What every key has used. Thread-safe. Bounded by the keys of the file: forget() drops the others.
class QuotaBook : public std::enable_shared_from_this<QuotaBook> {
public:
    enum class Bound { requests, tokens, concurrent };
    struct Refusal {
        Bound bound;
        base::Duration wait;  // until it may be tried again
    };
    /// What a client is told of its bounds (OpenAI's x-ratelimit-*); those that do not exist are empty.
    struct Standing {
        struct One {
            std::uint64_t limit = 0;
            std::uint64_t remaining = 0;
            base::Duration reset{};  // until it is full
        };
        std::optional<One> requests;
        std::optional<One> tokens;
    };

    /// One request of a key, from the door to its end. Counts in `concurrent` until settled or destroyed. Thread-safe.
    class Hold {
    public:
        ~Hold();
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;
        /// Its prompt and the most that it may answer. Once.
        std::optional<Refusal> reserve(std::uint64_t tokens, base::TimePoint now);
        /// What it was in the end; later calls do nothing.
        void settle(std::uint64_t tokens, base::TimePoint now);
        Standing standing(base::TimePoint now) const;

    private:
        friend class QuotaBook;
        Hold(std::shared_ptr<QuotaBook> book, std::string id) : book_(std::move(book)), id_(std::move(id)) {}
        const std::shared_ptr<QuotaBook> book_;
        const std::string id_;
        double reserved_ = 0;      // guarded by the book's mutex
        bool is_settled_ = false;  // guarded by the book's mutex
    };

    /// One more request of `key`, or why not.
    tl::expected<std::shared_ptr<Hold>, Refusal> open(const ApiKey& key, base::TimePoint now);
    /// Keeps what keys with these ids have used, and of others only who is in work.
    void forget_others(const std::vector<ApiKey>& keys);

private:
    struct State {
        std::optional<MinuteAllowance> requests;
        std::optional<MinuteAllowance> tokens;
        std::uint32_t in_work = 0;
    };
    /// mutex_ held.
    Standing standing_of(State& state, base::TimePoint now);

    std::mutex mutex_;
    std::unordered_map<std::string, State> states_;  // by id of the key
};

std::string_view bound_name(QuotaBook::Bound bound);

}  // namespace gateway
