#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/linear_fit.h"
#include "kv_cache/prefix_index.h"
#include "proto/roles.h"
#include "proto/scheduler.pb.h"

namespace worker {

/// What loading the KV of a token takes, as a report says it: in whole nanoseconds, at least 1.
std::uint32_t load_price_ns(double seconds_per_token);

/// What a StepSample says, without being a message: thousands of them are kept.
struct StepFigures {
    std::uint32_t prefill_tokens = 0;
    std::uint32_t decode_sequences = 0;
    std::uint64_t prefill_context_tokens = 0;
    std::uint64_t decode_context_tokens = 0;
    std::uint32_t duration_us = 0;
};

/// What the worker has to tell the scheduler, between the step thread that writes it and the registration thread that
/// sends it. Thread-safe. Bounded: samples beyond the bound are dropped, the oldest first. Block events are taken from
/// the prefix index only while a scheduler listens and there is room for them here: until then changes gather in the
/// index, where one that comes and goes is none. Some samples of each size of step are kept and told again to whoever
/// listens next: a scheduler that has just begun predicts at once what this worker takes.
class ReportBoard {
public:
    /// `block_hashes_max`: of the block events that wait here; the last ones may go beyond it.
    explicit ReportBoard(std::size_t samples_max = 256, std::size_t block_hashes_max = 1 << 17);

    void set_load(const sluice::proto::WorkerLoad& load);
    void add_step(const sluice::proto::StepSample& sample);
    void add_steps(std::span<const StepFigures> steps);
    void add_transfer(const sluice::proto::TransferSample& sample);
    /// `below`: of KnownBlockEvents.
    void add_block_events(const kv_cache::BlockEvents& events,
                          std::span<const std::vector<base::BlockHash>> below = {});
    /// What loading the KV of a token from the `level`-th level below the pool (0: the nearest) took lately.
    void set_load_price(std::size_t level, std::uint32_t ns_per_token);

    /// Moves everything that waits into `heartbeat` (header and number are the caller's); the load is copied.
    void take(sluice::proto::Heartbeat& heartbeat);

    /// The scheduler's lease bounds how long the streams of gateways may be silent, too, whatever the settings say
    /// here.
    void set_heartbeat_max(std::chrono::milliseconds heartbeat) { heartbeat_max_ms_ = heartbeat.count(); }
    std::chrono::milliseconds heartbeat_max() const { return std::chrono::milliseconds(heartbeat_max_ms_.load()); }

    /// A scheduler listens from now on, and knows nothing of the prefix index.
    void attach();
    /// Nobody listens.
    void detach();
    /// The scheduler that listens saw a gap in the block events: it needs all of the prefix index again.
    void want_snapshot();

    /// What the step thread should do with the changes of its prefix index.
    enum class Wish {
        nothing,   // nobody listens: forget them
        later,     // there is no room: let them gather
        changes,   // add_block_events()
        snapshot,  // begin one, then as `changes`; said once for each
    };
    Wish take_wish();
    /// `wake` is called (any thread; it must not call back) when the answer of take_wish() may have changed. Empty:
    /// nobody is to be woken any more.
    void set_waker(std::function<void()> wake);

    /// The step thread is alive. A long step counts as alive until the stall limit (WorkerOptions).
    void note_progress(base::TimePoint now);
    base::TimePoint last_progress() const;

    void set_draining(bool draining = true) { draining_ = draining; }
    bool draining() const { return draining_; }

    /// The role as which the worker is registered since it has turned; empty: as it began.
    void set_role(sluice::proto::Role role) { role_ = static_cast<int>(role); }
    std::optional<sluice::proto::Role> role() const {
        const int role = role_;
        return role == kNoRole ? std::nullopt : std::optional(static_cast<sluice::proto::Role>(role));
    }

private:
    /// Of each size of step, as many samples are told again: where all steps are alike they must be enough to predict
    /// by.
    static constexpr std::size_t kRememberedOfSize = base::LinearFit::kSamplesNeeded + 2;
    /// Of prompt tokens and of sequences that decode: bits that it takes to write the number.
    struct SizeOfStep {
        std::uint8_t prefill = 0;
        std::uint8_t decode = 0;
        auto operator<=>(const SizeOfStep&) const = default;
    };
    /// The last few samples of steps of about one size.
    struct Remembered {
        std::array<StepFigures, kRememberedOfSize> samples;
        std::size_t added = 0;  // the last of them stands at (added - 1) % kRememberedOfSize
    };
    void push(const StepFigures& step);
    void remember(const StepFigures& step);
    void tell_again();

    const std::size_t samples_max_;
    const std::size_t block_hashes_max_;
    mutable std::mutex mutex_;  // guards all below up to the atomics
    sluice::proto::WorkerLoad load_;
    std::vector<std::uint32_t> load_prices_;  // by level
    std::vector<StepFigures> steps_;
    std::deque<sluice::proto::TransferSample> transfers_;
    std::vector<SizeOfStep> told_sizes_;
    std::vector<Remembered> told_steps_;  // of each of them
    std::deque<sluice::proto::TransferSample> told_transfers_;
    std::vector<sluice::proto::BlockEvents> events_;
    std::size_t event_hashes_ = 0;  // in events_
    bool attached_ = false;
    bool snapshot_wanted_ = false;
    std::function<void()> wake_;
    std::atomic<std::int64_t> heartbeat_max_ms_{std::numeric_limits<std::int32_t>::max()};
    std::atomic<base::TimePoint::rep> last_progress_{0};
    std::atomic<bool> draining_{false};
    static constexpr int kNoRole = -1;
    std::atomic<int> role_{kNoRole};
};

}  // namespace worker
