#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "gateway/explain/timeline.h"

namespace gateway {

/// Section `explain` of the configuration.
struct ExplainOptions {
    std::size_t requests_max = 1000;  // timelines that are kept; 0: none, and nothing is recorded
    std::size_t misses_max = 1000;    // of requests that missed a target, besides
    bool from_anywhere = false;       // /explain answers others than this machine

    bool is_on() const { return requests_max > 0; }
    /// Bad values are reported by Config::finish().
    static ExplainOptions read(base::Config& config);
};

/// One request of a client from its last byte to its end.
struct RequestTimeline {
    /// Of a request's sequences those with the latest first token and the largest TPOT.
    static constexpr std::size_t kSequencesKept = 2;

    std::string request_id;  // x-request-id
    std::string answer_id;   // of the answer's JSON
    std::string endpoint;
    std::string model;
    std::string slo_class;
    bool stream = false;
    std::string routed = {};  // which of two models answered, and with how many examples; empty: one was asked for
    std::string cache = {};   // what became of it at the cache in front, where there is one
    std::int64_t received_unix_us = 0;
    base::TimePoint received_at{};
    base::TimePoint ended_at{};
    Outcome outcome;
    Explanation explanation;
    std::size_t sequences_total = 0;
    std::vector<std::shared_ptr<const SequenceTimeline>> sequences;

    bool has_targets() const { return outcome.targets.has_any(); }
};

/// Those of `all` that are kept: at most RequestTimeline::kSequencesKept.
std::vector<std::shared_ptr<const SequenceTimeline>> worst_of(
    const std::vector<std::shared_ptr<const SequenceTimeline>>& all);

/// What was missed over some time, and why.
struct MissSummary {
    base::Duration window{};         // that was asked for
    std::uint64_t requests = 0;      // that ended in it
    std::uint64_t with_targets = 0;  // of them
    std::uint64_t missed = 0;        // of all, without those whose client caused it
    std::array<std::uint64_t, kCauses> causes{};
    /// By worker and cause, of the misses that are still kept, most first.
    struct OfWorker {
        std::uint64_t worker = 0;
        Cause cause = Cause::gateway;
        std::uint64_t count = 0;
        std::string example;  // a request's id
    };
    std::vector<OfWorker> workers;
    std::vector<std::string> latest;  // ids of requests that missed, latest first; at most kExamples
    static constexpr std::size_t kExamples = 10;
};

/// The timelines of the latest requests and of the latest that missed a target, and counts for a day. Bounded by its
/// options. The gateway's I/O thread only.
class TimelineBook {
public:
    /// Counts are kept by the minute.
    static constexpr std::size_t kMinutes = 24 * 60;

    TimelineBook(ExplainOptions options, const base::Clock& clock);

    bool is_on() const { return options_.is_on(); }
    void add(RequestTimeline request);
    /// The latest request of this id: x-request-id, the id of its answer, or of one of its sequences (hexadecimal).
    /// Null when it is not kept.
    std::shared_ptr<const RequestTimeline> find(std::string_view id) const;
    /// Of what ended within `window` (to the minute; a day at most).
    MissSummary summary(base::Duration window) const;
    std::size_t kept() const { return recent_.size() + missed_.size(); }

private:
    using Kept = std::deque<std::shared_ptr<const RequestTimeline>>;
    struct Minute {
        std::int64_t number = -1;
        std::uint32_t requests = 0;
        std::uint32_t with_targets = 0;
        std::array<std::uint32_t, kCauses> causes{};
    };
    std::int64_t minute_of(base::TimePoint at) const;
    static std::shared_ptr<const RequestTimeline> find_in(const Kept& kept, std::string_view id);

    const ExplainOptions options_;
    const base::Clock& clock_;
    const base::TimePoint began_at_;
    Kept recent_;
    Kept missed_;  // may share with recent_
    std::vector<Minute> minutes_;
};

}  // namespace gateway
