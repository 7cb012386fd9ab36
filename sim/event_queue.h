#pragma once

#include <cstdint>
#include <queue>
#include <utility>
#include <vector>

namespace sim {

/// What happens next on a virtual clock: by time, what was put in first where times are equal. So a run depends on
/// nothing but its input. Times are whatever unit the user counts in, and never go back.
template <class Event, class Time = double>
class EventQueue {
public:
    void push(Time at, Event event) { heap_.push({at, next_++, std::move(event)}); }
    bool empty() const { return heap_.empty(); }
    std::size_t size() const { return heap_.size(); }
    Time next_at() const { return heap_.top().at; }
    /// Moves the clock to the first event and takes it. Not to be asked when empty.
    Event pop() {
        now_ = heap_.top().at;
        Event event = std::move(const_cast<Entry&>(heap_.top()).event);
        heap_.pop();
        return event;
    }
    Time now() const { return now_; }

private:
    struct Entry {
        Time at;
        std::uint64_t order;
        Event event;
        bool operator<(const Entry& other) const {
            return at != other.at ? at > other.at : order > other.order;  // the top of a heap is its largest
        }
    };
    std::priority_queue<Entry> heap_;
    std::uint64_t next_ = 0;
    Time now_{};
};

}  // namespace sim
