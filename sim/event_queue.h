#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace sim {

/// What happens next on a virtual clock: by time, what was put in first where times are equal. So a run depends on
/// nothing but its input. Times are whatever unit the user counts in, and never go back. The heap holds times alone,
/// the events stay where they were put: with ten thousand workers it is small enough to stay in a cache. The next few
/// stand in order in front of it, so that what they will need can be fetched before it is their turn.
template <class Event, class Time = double>
class EventQueue {
public:
    void push(Time at, Event event) {
        std::uint32_t place = 0;
        if (free_.empty()) {
            place = static_cast<std::uint32_t>(events_.size());
            events_.push_back(std::move(event));
        } else {
            place = free_.back();
            free_.pop_back();
            events_[place] = std::move(event);
        }
        const Entry entry{at, next_++, place};
        if (empty()) {
            near_.push_back(entry);
        } else if (entry.is_before(near_.back())) {
            near_.insert(std::upper_bound(begin(), near_.end(), entry, is_before), entry);
            if (near_.size() - first_ > 2 * kNear) { spill(); }
        } else {
            heap_.push_back(entry);
            std::push_heap(heap_.begin(), heap_.end(), is_behind);
        }
    }
    bool empty() const { return first_ == near_.size(); }
    std::size_t size() const { return heap_.size() + near_.size() - first_; }
    /// The event that comes next (0), the one after it, and so on, as far as that is known: right after pop() at least
    /// kAhead of them, or all. Null: there is none, or it is not known. What is put in may come before them.
    const Event* soon(std::size_t number) const {
        return number < near_.size() - first_ ? &events_[near_[first_ + number].place] : nullptr;
    }
    Time next_at() const { return near_[first_].at; }
    /// Moves the clock to the first event and takes it. Not to be asked when empty.
    Event pop() {
        const Entry next = near_[first_++];
        if (near_.size() - first_ < kAhead) { gather(); }
        now_ = next.at;
        free_.push_back(next.place);
        return std::move(events_[next.place]);
    }
    Time now() const { return now_; }

    static constexpr std::size_t kAhead = 16;

private:
    static constexpr std::size_t kNear = 2 * kAhead;

    struct Entry {
        Time at;
        std::uint64_t order;
        std::uint32_t place;  // of events_
        bool is_before(const Entry& other) const { return at != other.at ? at < other.at : order < other.order; }
    };
    static bool is_before(const Entry& left, const Entry& right) { return left.is_before(right); }
    static bool is_behind(const Entry& left, const Entry& right) { return right.is_before(left); }

    auto begin() { return near_.begin() + static_cast<std::ptrdiff_t>(first_); }
    /// Makes kNear known, or all.
    void gather() {
        near_.erase(near_.begin(), begin());
        first_ = 0;
        while (near_.size() < kNear && !heap_.empty()) {
            near_.push_back(heap_.front());
            std::pop_heap(heap_.begin(), heap_.end(), is_behind);
            heap_.pop_back();
        }
    }
    /// The later ones go back to the heap.
    void spill() {
        while (near_.size() - first_ > kNear) {
            heap_.push_back(near_.back());
            std::push_heap(heap_.begin(), heap_.end(), is_behind);
            near_.pop_back();
        }
    }

    std::vector<Entry> near_;  // from first_ on: in order, before all in heap_; empty only with it
    std::size_t first_ = 0;
    std::vector<Entry> heap_;
    std::vector<Event> events_;
    std::vector<std::uint32_t> free_;  // places in it
    std::uint64_t next_ = 0;
    Time now_{};
};

}  // namespace sim
