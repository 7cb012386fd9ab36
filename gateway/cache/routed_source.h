#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/clock.h"
#include "gateway/cache/live_examples.h"
#include "gateway/request/ports.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// Between the cache of answers and the models: hears what was said to requests for the routed name, so that answers of
/// the large model become examples, and asks the other model where both are to be compared. Everything else passes
/// through. I/O thread only.
class RoutedSource final : public SequenceSource {
public:
    struct Setup {
        SequenceSource& inner;  // the models'; borrowed, like all references here
        LiveExamples& examples;
        const Models& models;
        const base::Clock& clock;
        Post post;  // to this thread, later
    };
    explicit RoutedSource(Setup setup) : setup_(std::move(setup)) {}

    bool has_room(std::size_t count) const override { return setup_.inner.has_room(count); }
    base::RequestId open(GenerationRequest request, GenerationSink& sink) override;
    void cancel(base::RequestId id, std::string_view cause) override { setup_.inner.cancel(id, cause); }

    /// What is in work now becomes no example.
    void purge();
    /// Ends comparisons; none begins afterwards.
    void stop();
    std::size_t comparisons() const { return comparisons_.size(); }
    /// Sequences that the large model has in work, for clients or comparisons.
    std::size_t large_in_work() const { return large_in_work_; }

private:
    struct Watch;
    struct Comparison;

    void ended(Watch& watch, const GenerationEnd& end);
    void begin_comparison(const Watch& watch);
    void compared(Comparison& comparison, const GenerationEnd& end);
    void large_began(int count);

    Setup setup_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Watch>> watches_;  // by number
    std::unordered_map<std::uint64_t, std::shared_ptr<Comparison>> comparisons_;
    std::uint64_t next_ = 1;
    std::size_t large_in_work_ = 0;
    bool is_stopped_ = false;
};

}  // namespace gateway
