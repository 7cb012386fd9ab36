#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"

namespace sim {

/// What happens next on a virtual clock: by time, what was put in first where times are equal. So a run depends on
/// nothing but its input. Times are whatever unit the user counts in, and never go back. The heap holds times alone,
/// the events stay where they were put: with ten thousand workers it is small enough to stay in a cache, and with four
/// below each one half as deep as with two. The next few stand in a row before it, so that the user can see them coming
/// and ask the processor for what they will read. `Order` numbers what was put in; it must have more values than the
/// queue ever has events at once.
///
/// Some kinds of events may have a number of their own (push_as()), so that which of them comes first at one time does
/// not depend on when they were put in: those below `first_number`.
template <class Event, class Time = double, class Order = std::uint32_t>
class EventQueue {
public:
    explicit EventQueue(Order first_number = 0) : first_(first_number), next_(first_number) {}

    void push(Time at, Event event) {
        if (next_ == std::numeric_limits<Order>::max()) { number_anew(); }
        insert(at, next_++, std::move(event));
    }
    /// `number` is below first_number: at one time it comes before those of higher numbers and before all others.
    void push_as(Order number, Time at, Event event) {
        CHECK(number < first_, number);
        insert(at, number, std::move(event));
    }
    bool empty() const { return begin_ == end_; }
    std::size_t size() const { return end_ - begin_ + heap_.size(); }
    /// The event that comes next (0), the one after it (1), and so on, where `number` is below kSoon; null: there is
    /// none.
    static constexpr std::size_t kSoon = 12;
    const Event* soon(std::size_t number) const {
        return number < end_ - begin_ ? &events_[row_[begin_ + number].place] : nullptr;
    }
    Time next_at() const { return row_[begin_].at; }
    /// Moves the clock to the first event and takes it. Not to be asked when empty.
    Event pop() {
        now_ = row_[begin_].at;
        const std::uint32_t place = row_[begin_++].place;
        free_.push_back(place);
        fill_row();
        return std::move(events_[place]);
    }
    Time now() const { return now_; }

private:
    static constexpr std::size_t kBelow = 4;
    static constexpr std::size_t kRowMax = 2 * kSoon;
    struct Entry {
        Time at;
        Order order;
        std::uint32_t place;  // of events_
        bool is_before(const Entry& other) const { return at != other.at ? at < other.at : order < other.order; }
    };
    void insert(Time at, Order order, Event event) {
        std::uint32_t place = 0;
        if (free_.empty()) {
            place = static_cast<std::uint32_t>(events_.size());
            events_.push_back(std::move(event));
        } else {
            place = free_.back();
            free_.pop_back();
            events_[place] = std::move(event);
        }
        const Entry entry{at, order, place};
        if (!heap_.empty() && heap_.front().is_before(entry)) { return put_in_heap(entry); }
        put_in_row(entry);
    }
    /// Before the first of the heap: into the row, whose last one makes way where it is long enough without.
    void put_in_row(const Entry& entry) {
        make_room_in_row();
        std::size_t at = end_++;
        for (; at > begin_ && entry.is_before(row_[at - 1]); --at) {
            row_[at] = row_[at - 1];
        }
        row_[at] = entry;
        if (end_ - begin_ > kRowMax) { put_in_heap(row_[--end_]); }
    }
    void make_room_in_row() {
        if (end_ < row_.size()) { return; }
        std::copy(row_.begin() + static_cast<std::ptrdiff_t>(begin_), row_.begin() + static_cast<std::ptrdiff_t>(end_),
                  row_.begin());
        end_ -= std::exchange(begin_, 0);
    }
    void fill_row() {
        while (end_ - begin_ < kSoon && !heap_.empty()) {
            make_room_in_row();
            row_[end_++] = take_from_heap();
            __builtin_prefetch(&events_[row_[end_ - 1].place]);
        }
    }
    Entry take_from_heap() {
        const Entry first = heap_.front();
        const Entry last = heap_.back();
        heap_.pop_back();
        if (!heap_.empty()) { sink(last); }
        return first;
    }
    void put_in_heap(const Entry& entry) {
        std::size_t hole = heap_.size();
        heap_.push_back(entry);
        while (hole > 0 && entry.is_before(heap_[(hole - 1) / kBelow])) {
            heap_[hole] = heap_[(hole - 1) / kBelow];
            hole = (hole - 1) / kBelow;
        }
        heap_[hole] = entry;
    }
    /// The first of those at `begin` and beside it, below the same one.
    std::size_t first_of(std::size_t begin) const {
        const std::size_t end = std::min(begin + kBelow, heap_.size());
        std::size_t first = begin;
        for (std::size_t at = begin + 1; at < end; ++at) {
            first = heap_[at].is_before(heap_[first]) ? at : first;
        }
        return first;
    }
    /// From the top to where it belongs.
    void sink(const Entry& entry) {
        std::size_t hole = 0;
        while (hole * kBelow + 1 < heap_.size()) {
            const std::size_t first = first_of(hole * kBelow + 1);
            if (!heap_[first].is_before(entry)) { break; }
            heap_[hole] = heap_[first];
            hole = first;
        }
        heap_[hole] = entry;
    }
    void number_anew() {
        CHECK(size() < std::size_t{std::numeric_limits<Order>::max()} - first_, size() << " events");
        while (begin_ < end_) {
            heap_.push_back(row_[begin_++]);
        }
        std::sort(heap_.begin(), heap_.end(), [](const Entry& a, const Entry& b) { return a.is_before(b); });
        next_ = first_;
        for (Entry& entry : heap_) {  // what is in order is a heap
            if (entry.order >= first_) { entry.order = next_++; }
        }
        fill_row();
    }

    std::array<Entry, 4 * kRowMax> row_{};  // from begin_ to end_: what comes before all of the heap, in order
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    std::vector<Entry> heap_;
    std::vector<Event> events_;
    std::vector<std::uint32_t> free_;  // places in it
    Order first_;
    Order next_;
    Time now_{};
};

}  // namespace sim
