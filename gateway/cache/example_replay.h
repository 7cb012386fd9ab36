#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "caching/in_context/example_book.h"
#include "gateway/cache/in_context_options.h"
#include "gateway/cache/live_examples.h"
#include "gateway/openai/prepare.h"
#include "gateway/request/models.h"
#include "gateway/request/ports.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// How a request that no client sent becomes tokens: `make` and what follows run on a text thread, `done` on the I/O
/// thread, later.
using PrepareForm = std::function<void(const std::string& tenant, std::function<RequestForm()> make,
                                       std::function<void(ApiResult<PreparedRequest>)> done)>;

/// Has examples answered again by the large model while there is little to do: the one that was used and did worst
/// first. Which of its two answers is better is seen at the small model, which is asked questions next to it with the
/// one and with the other in its prompt. One sequence at a time, so many examples an hour; clients that come end it at
/// once. After several in a row that brought nothing it rests for an hour. I/O thread only.
/// Source: IC-Cache (SOSP 2025), section 4.3; the trials at the small model are ours, in place of a judge of answers.
class ExampleReplay {
public:
    struct Setup {
        const InContextSettings& settings;  // borrowed, like all references here
        std::size_t small = 0;              // of the models
        std::size_t large = 0;
        SequenceSource& inner;  // the models'
        const Models& models;
        const std::vector<double>& loads;            // RequestTable::loads()
        std::function<std::size_t()> large_in_work;  // of clients
        /// The next example, but for those; false: not now. LiveExamples::next_replay().
        std::function<bool(std::vector<caching::ExampleId> passed,
                           std::function<void(std::optional<LiveExamples::Replay>)> done)>
            choose;
        /// LiveExamples::replayed().
        std::function<bool(LiveExamples::ReplayedAnswer answered, std::function<void(std::string_view outcome)> done)>
            tell;
        base::Metrics& metrics;
        const base::Clock& clock;
        Post post;  // to this thread, later
    };
    explicit ExampleReplay(Setup setup) : setup_(std::move(setup)) {}

    /// Nothing begins before.
    void prepares(PrepareForm prepare) { prepare_ = std::move(prepare); }
    /// Begins what is due, ends what is in the way; when there is more to look at.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// Ends what is in work; none begins afterwards.
    void stop();

private:
    struct Asking;
    /// One example that is answered again.
    struct Play {
        std::uint64_t number = 0;
        std::optional<LiveExamples::Replay> replay = {};
        LiveExamples::ReplayedAnswer said = {};
        std::shared_ptr<Asking> asking = {};  // the sequence in work
        bool is_told = false;                 // all that was to be found out is
    };

    bool is_busy() const;
    bool is_current(std::uint64_t number) const { return play_ && play_->number == number; }
    void begin(base::TimePoint now);
    void chosen(std::uint64_t number, std::optional<LiveExamples::Replay> replay);
    /// The next thing that is to be found out.
    void go_on();
    void ask(std::function<RequestForm()> make);
    void open(std::uint64_t number, ApiResult<PreparedRequest> prepared);
    void ended(Asking& asking, const GenerationEnd& end);
    void tell(LiveExamples::ReplayedAnswer said);
    void give_way();
    void count(std::string_view outcome);
    void rest();

    Setup setup_;
    PrepareForm prepare_;
    std::unique_ptr<Play> play_;              // null: nothing is in work
    std::vector<caching::ExampleId> passed_;  // of this round
    std::size_t fruitless_ = 0;               // in a row
    std::optional<base::TimePoint> quiet_since_;
    base::TimePoint due_{};
    std::uint64_t next_ = 1;
    bool is_stopped_ = false;
};

}  // namespace gateway
