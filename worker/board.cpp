#include "worker/board.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "proto/block_hashes.h"

namespace worker {
namespace {

template <class T>
void push_bounded(std::deque<T>& samples, const T& sample, std::size_t max) {
    if (samples.size() >= max) { samples.pop_front(); }
    samples.push_back(sample);
}

/// Sizes of steps of which samples are told again; of hand-offs.
constexpr std::size_t kSizesRemembered = 24;
constexpr std::size_t kTransfersRemembered = 16;

}  // namespace

std::uint32_t load_price_ns(double seconds_per_token) {
    constexpr double kMost = 4e9;  // what the report has room for
    return static_cast<std::uint32_t>(std::clamp(seconds_per_token * 1e9, 1.0, kMost));
}

ReportBoard::ReportBoard(std::size_t samples_max, std::size_t block_hashes_max)
    : samples_max_(samples_max), block_hashes_max_(block_hashes_max) {}

void ReportBoard::set_load(const sluice::proto::WorkerLoad& load) {
    const std::scoped_lock lock(mutex_);
    load_ = load;
}

/// Called with the mutex held.
void ReportBoard::push(const StepFigures& step) {
    if (steps_.size() >= samples_max_) { steps_.erase(steps_.begin()); }
    steps_.push_back(step);
}

void ReportBoard::add_step(const sluice::proto::StepSample& sample) {
    const StepFigures step{.prefill_tokens = sample.prefill_tokens(),
                           .decode_sequences = sample.decode_sequences(),
                           .prefill_context_tokens = sample.prefill_context_tokens(),
                           .decode_context_tokens = sample.decode_context_tokens(),
                           .duration_us = sample.duration_us()};
    add_steps({&step, 1});
}

void ReportBoard::add_steps(std::span<const StepFigures> steps) {
    const std::scoped_lock lock(mutex_);
    for (const StepFigures& step : steps) {
        push(step);
    }
}

void ReportBoard::add_transfer(const sluice::proto::TransferSample& sample) {
    const std::scoped_lock lock(mutex_);
    push_bounded(transfers_, sample, samples_max_);
}

void ReportBoard::set_load_price(std::size_t level, std::uint32_t ns_per_token) {
    const std::scoped_lock lock(mutex_);
    if (load_prices_.size() <= level) { load_prices_.resize(level + 1); }
    load_prices_[level] = ns_per_token;
}

void ReportBoard::add_block_events(const kv_cache::BlockEvents& events,
                                   std::span<const std::vector<base::BlockHash>> below) {
    sluice::proto::BlockEvents message;
    message.set_number(events.number);
    message.set_snapshot(events.snapshot);
    message.set_stored(proto::write_block_hashes(events.stored));
    message.set_removed(proto::write_block_hashes(events.removed));
    std::size_t hashes = events.stored.size() + events.removed.size();
    for (std::size_t level = 0; level < below.size(); ++level) {
        if (below[level].empty()) { continue; }
        auto& part = *message.add_below();
        part.set_level(static_cast<std::uint32_t>(level + 1));
        part.set_hashes(proto::write_block_hashes(below[level]));
        hashes += below[level].size();
    }
    const std::scoped_lock lock(mutex_);
    if (!attached_) { return; }  // the scheduler has gone since it was asked for
    event_hashes_ += hashes;
    events_.push_back(std::move(message));
}

void ReportBoard::take(sluice::proto::Heartbeat& heartbeat) {
    const std::scoped_lock lock(mutex_);
    *heartbeat.mutable_load() = load_;
    heartbeat.mutable_load()->set_draining(draining_);
    for (const StepFigures& step : steps_) {
        remember(step);
        sluice::proto::StepSample& sample = *heartbeat.add_steps();
        sample.set_prefill_tokens(step.prefill_tokens);
        sample.set_prefill_context_tokens(step.prefill_context_tokens);
        sample.set_decode_sequences(step.decode_sequences);
        sample.set_decode_context_tokens(step.decode_context_tokens);
        sample.set_duration_us(step.duration_us);
    }
    for (auto& sample : transfers_) {
        push_bounded(told_transfers_, sample, kTransfersRemembered);
        *heartbeat.add_transfers() = std::move(sample);
    }
    for (auto& events : events_) {
        *heartbeat.add_blocks() = std::move(events);
    }
    for (const std::uint32_t price : load_prices_) {
        heartbeat.add_load_ns_per_token(price);
    }
    steps_.clear();
    transfers_.clear();
    events_.clear();
    if (std::exchange(event_hashes_, 0) >= block_hashes_max_ && wake_) { wake_(); }
}

void ReportBoard::attach() {
    const std::scoped_lock lock(mutex_);
    attached_ = true;
    snapshot_wanted_ = true;
    tell_again();
    if (wake_) { wake_(); }
}

/// Called with the mutex held, like tell_again().
void ReportBoard::remember(const StepFigures& step) {
    const SizeOfStep size{.prefill = static_cast<std::uint8_t>(std::bit_width(step.prefill_tokens)),
                          .decode = static_cast<std::uint8_t>(std::bit_width(step.decode_sequences))};
    const auto at =
        static_cast<std::size_t>(std::find(told_sizes_.begin(), told_sizes_.end(), size) - told_sizes_.begin());
    if (at == told_sizes_.size()) {
        if (at >= kSizesRemembered) { return; }
        told_sizes_.push_back(size);
        told_steps_.emplace_back();
    }
    Remembered& remembered = told_steps_[at];
    remembered.samples[remembered.added++ % kRememberedOfSize] = step;
}

/// Before what is new, as it is older.
void ReportBoard::tell_again() {
    const std::vector<StepFigures> steps = std::exchange(steps_, {});
    const std::deque<sluice::proto::TransferSample> transfers = std::exchange(transfers_, {});
    const std::vector<SizeOfStep> sizes = std::exchange(told_sizes_, {});
    const std::vector<Remembered> told = std::exchange(told_steps_, {});
    std::vector<std::size_t> by_size(sizes.size());
    std::iota(by_size.begin(), by_size.end(), std::size_t{0});
    std::sort(by_size.begin(), by_size.end(), [&](std::size_t a, std::size_t b) { return sizes[a] < sizes[b]; });
    for (const std::size_t at : by_size) {
        const std::size_t end = told[at].added;
        for (std::size_t i = end - std::min(end, kRememberedOfSize); i < end; ++i) {
            push(told[at].samples[i % kRememberedOfSize]);
        }
    }
    for (const StepFigures& step : steps) {
        push(step);
    }
    transfers_ = std::exchange(told_transfers_, {});
    for (const auto& sample : transfers) {
        push_bounded(transfers_, sample, samples_max_);
    }
}

void ReportBoard::detach() {
    const std::scoped_lock lock(mutex_);
    attached_ = false;
    snapshot_wanted_ = false;
    events_.clear();
    event_hashes_ = 0;
}

void ReportBoard::want_snapshot() {
    const std::scoped_lock lock(mutex_);
    if (!attached_) { return; }
    events_.clear();
    event_hashes_ = 0;
    snapshot_wanted_ = true;
    if (wake_) { wake_(); }
}

ReportBoard::Wish ReportBoard::take_wish() {
    const std::scoped_lock lock(mutex_);
    if (!attached_) { return Wish::nothing; }
    if (std::exchange(snapshot_wanted_, false)) { return Wish::snapshot; }
    return event_hashes_ >= block_hashes_max_ ? Wish::later : Wish::changes;
}

void ReportBoard::set_waker(std::function<void()> wake) {
    const std::scoped_lock lock(mutex_);
    wake_ = std::move(wake);
}

void ReportBoard::note_progress(base::TimePoint now) {
    last_progress_ = now.time_since_epoch().count();
}

base::TimePoint ReportBoard::last_progress() const {
    return base::TimePoint(base::Duration(last_progress_.load()));
}

}  // namespace worker
