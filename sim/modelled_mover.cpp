#include "sim/modelled_mover.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "sim/virtual_clock.h"

namespace sim {

using kv_transfer::TierEvent;
using kv_transfer::TierJob;

namespace {

std::uint32_t blocks_of(const TierJob& job) {
    std::uint32_t blocks = 0;
    for (const kv_transfer::TierPiece& piece : job.pieces) {
        blocks += piece.blocks.count;
    }
    return blocks;
}

}  // namespace

CopyCounts& CopyCounts::operator+=(const CopyCounts& other) {
    copies_out += other.copies_out;
    copies_in += other.copies_in;
    blocks_out += other.blocks_out;
    blocks_in += other.blocks_in;
    saves += other.saves;
    loads += other.loads;
    given_up += other.given_up;
    seconds += other.seconds;
    return *this;
}

double CopyCounts::add(const TierJob& job, const CopyCosts& costs) {
    if (job.kind == TierJob::Kind::clear) { return 0; }
    const std::uint32_t blocks = blocks_of(job);
    const std::uint64_t copies =
        costs.copies_per_block > 0 ? std::uint64_t{costs.copies_per_block} * blocks : job.pieces.size();
    const bool is_load = job.kind == TierJob::Kind::load;
    (is_load ? copies_in : copies_out) += copies;
    (is_load ? blocks_in : blocks_out) += blocks;
    ++(is_load ? loads : saves);
    const double rate = is_load ? costs.load_bytes_per_second : costs.save_bytes_per_second;
    const double took = std::max(static_cast<double>(copies) * costs.launch_seconds, blocks * costs.block_bytes / rate);
    seconds += took;
    return took;
}

ModelledMover::ModelledMover(const CopyCosts& costs, std::uint32_t jobs_max, const base::Clock& clock, OnEvent on_event)
    : costs_(costs), jobs_max_(jobs_max), clock_(clock), on_event_(std::move(on_event)) {
    CHECK(jobs_max > 0 && costs.load_bytes_per_second > 0 && costs.save_bytes_per_second > 0);
}

bool ModelledMover::submit(TierJob job) {
    const bool is_clear = job.kind == TierJob::Kind::clear;
    std::deque<Job>& queue = job.kind == TierJob::Kind::load ? loads_ : others_;
    if (is_clear && !others_.empty() && others_.back().kind == TierJob::Kind::clear) { return false; }
    if (queue.size() >= std::size_t{jobs_max_} + (is_clear ? 1 : 0)) { return false; }
    Job taken;
    taken.kind = job.kind;
    taken.blocks = blocks_of(job);
    taken.until = job.until;
    taken.submitted = clock_.now();
    taken.event.id = job.id;
    taken.event.duration = duration_of(counts_.add(job, costs_));
    taken.event.blocks_done = taken.blocks;
    taken.event.moved = static_cast<std::uint64_t>(taken.blocks * costs_.block_bytes);
    if (job.kind == TierJob::Kind::load) { blocks_loading_ += taken.blocks; }
    queue.push_back(std::move(taken));
    if (!ends_) { start_next(clock_.now()); }
    return true;
}

void ModelledMover::start_next(base::TimePoint from) {
    if (loads_.empty() && others_.empty()) { return; }
    std::deque<Job>& queue = loads_.empty() ? others_ : loads_;
    current_ = std::move(queue.front());
    queue.pop_front();
    from = std::max(from, current_.submitted);
    if (costs_.gives_up && current_.until && *current_.until < from + current_.event.duration) {
        give_up(current_, from);
    }
    ends_ = from + current_.event.duration;
}

/// Blocks come one after the other; who looks does so before each.
void ModelledMover::give_up(Job& job, base::TimePoint begins) const {
    const double of_block = seconds_of(job.event.duration) / std::max(job.blocks, 1u);
    const double left = std::max(0.0, seconds_of(*job.until - begins));
    const double begun = of_block > 0 ? std::ceil(left / of_block) : job.blocks;
    if (begun >= job.blocks) { return; }
    job.event.blocks_done = static_cast<std::uint32_t>(begun);
    job.event.duration = duration_of(of_block * begun);
    job.event.moved = static_cast<std::uint64_t>(begun * costs_.block_bytes);
    job.event.given_up = true;
    job.event.error = base::Error{base::ErrorCode::cancelled, "loading it took longer than computing it"};
}

void ModelledMover::deliver() {
    while (ends_ && *ends_ <= clock_.now()) {
        Job ended = std::move(current_);
        const base::TimePoint at = *ends_;
        if (ended.kind == TierJob::Kind::load) { blocks_loading_ -= ended.blocks; }
        if (ended.event.given_up) { ++counts_.given_up; }
        if (ended.kind == TierJob::Kind::load) { counts_.blocks_in -= ended.blocks - ended.event.blocks_done; }
        ends_.reset();
        start_next(at);
        on_event_(std::move(ended.event));
    }
}

}  // namespace sim
