#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace sim {

/// What happens next on a virtual clock: by time, what was put in first where times are equal. So a run depends on
/// nothing but its input. Times are whatever unit the user counts in, and never go back. The heap holds times alone,
/// the events stay where they were put: with ten thousand workers it is small enough to stay in a cache.
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
        heap_.push_back({at, next_++, place});
        std::push_heap(heap_.begin(), heap_.end());
    }
    bool empty() const { return heap_.empty(); }
    std::size_t size() const { return heap_.size(); }
    /// The event that comes next (0), and one of those that come soon after it (1), as far as that is known without
    /// work; null: there is none.
    const Event* soon(std::size_t number) const {
        if (number >= heap_.size()) { return nullptr; }
        std::size_t at = number;
        if (number == 1 && heap_.size() > 2 && heap_[1] < heap_[2]) { at = 2; }
        return &events_[heap_[at].place];
    }
    Time next_at() const { return heap_.front().at; }
    /// Moves the clock to the first event and takes it. Not to be asked when empty.
    Event pop() {
        now_ = heap_.front().at;
        const std::uint32_t place = heap_.front().place;
        std::pop_heap(heap_.begin(), heap_.end());
        heap_.pop_back();
        free_.push_back(place);
        return std::move(events_[place]);
    }
    Time now() const { return now_; }

private:
    struct Entry {
        Time at;
        std::uint64_t order;
        std::uint32_t place;  // of events_
        bool operator<(const Entry& other) const {
            return at != other.at ? at > other.at : order > other.order;  // the top of a heap is its largest
        }
    };
    std::vector<Entry> heap_;
    std::vector<Event> events_;
    std::vector<std::uint32_t> free_;  // places in it
    std::uint64_t next_ = 0;
    Time now_{};
};

}  // namespace sim
