#include "worker/board.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/linear_fit.h"
#include "proto/block_hashes.h"

namespace worker {
namespace {

template <class T>
void push_bounded(std::deque<T>& samples, const T& sample, std::size_t max) {
    if (samples.size() >= max) { samples.pop_front(); }
    samples.push_back(sample);
}

/// Samples that are told again: of each size of step, and sizes; of hand-offs. Where all steps are alike those of one
/// size must be enough to predict by.
constexpr std::size_t kRememberedOfSize = base::LinearFit::kSamplesNeeded + 2;
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

void ReportBoard::add_step(const sluice::proto::StepSample& sample) {
    const std::scoped_lock lock(mutex_);
    push_bounded(steps_, sample, samples_max_);
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
    for (auto& sample : steps_) {
        remember(sample);
        *heartbeat.add_steps() = std::move(sample);
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
void ReportBoard::remember(const sluice::proto::StepSample& sample) {
    const SizeOfStep size{std::bit_width(sample.prefill_tokens()), std::bit_width(sample.decode_sequences())};
    if (told_steps_.size() >= kSizesRemembered && !told_steps_.contains(size)) { return; }
    push_bounded(told_steps_[size], sample, kRememberedOfSize);
}

/// Before what is new, as it is older.
void ReportBoard::tell_again() {
    const std::deque<sluice::proto::StepSample> steps = std::exchange(steps_, {});
    const std::deque<sluice::proto::TransferSample> transfers = std::exchange(transfers_, {});
    for (const auto& [size, samples] : std::exchange(told_steps_, {})) {
        for (const auto& sample : samples) {
            push_bounded(steps_, sample, samples_max_);
        }
    }
    for (const auto& sample : steps) {
        push_bounded(steps_, sample, samples_max_);
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
