#include "kv_transfer/tier/tier_copier.h"

#include <utility>

#include "base/check.h"

namespace kv_transfer {
namespace {

std::uint32_t blocks_of(const TierJob& job) {
    return static_cast<std::uint32_t>(job.hashes.size());
}

}  // namespace

base::Result<std::unique_ptr<TierCopier>> TierCopier::start(kv_cache::KvStore& store, std::unique_ptr<TierBytes> bytes,
                                                            std::uint32_t jobs_max, const base::Clock& clock,
                                                            OnEvent on_event) {
    CHECK(jobs_max > 0);
    auto access = kv_cache::KvAccess::make(store);
    if (!access) { return base::pass_on(access); }
    return std::unique_ptr<TierCopier>(
        new TierCopier(std::move(*access), std::move(bytes), jobs_max, clock, std::move(on_event)));
}

TierCopier::TierCopier(kv_cache::KvAccess access, std::unique_ptr<TierBytes> bytes, std::uint32_t jobs_max,
                       const base::Clock& clock, OnEvent on_event)
    : access_(std::move(access)),
      bytes_(std::move(bytes)),
      jobs_max_(jobs_max),
      clock_(clock),
      on_event_(std::move(on_event)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

TierCopier::~TierCopier() {
    thread_ = {};
    for (std::deque<TierJob>* jobs : {&loads_, &others_}) {
        for (const TierJob& job : *jobs) {
            on_event_({.id = job.id, .error = base::Error{base::ErrorCode::cancelled, "the level has ended"}});
        }
    }
}

bool TierCopier::submit(TierJob job) {
    {
        const std::scoped_lock lock(mutex_);
        std::deque<TierJob>& queue = job.kind == TierJob::Kind::load ? loads_ : others_;
        // What must not be found any more is not forgotten for want of room: one such job takes the place of two.
        if (job.kind == TierJob::Kind::clear && !others_.empty() && others_.back().kind == TierJob::Kind::clear) {
            return false;
        }
        if (queue.size() >= jobs_max_ + (job.kind == TierJob::Kind::clear ? 1 : 0)) { return false; }
        if (job.kind == TierJob::Kind::load) { blocks_loading_ += blocks_of(job); }
        queue.push_back(std::move(job));
    }
    ready_.notify_one();
    return true;
}

std::uint32_t TierCopier::blocks_loading() const {
    const std::scoped_lock lock(mutex_);
    return blocks_loading_;
}

void TierCopier::run(const std::stop_token& stop) {
    while (true) {
        TierJob job;
        {
            std::unique_lock lock(mutex_);
            if (!ready_.wait(lock, stop, [this] { return !loads_.empty() || !others_.empty(); }) ||
                stop.stop_requested()) {
                return;
            }
            std::deque<TierJob>& queue = loads_.empty() ? others_ : loads_;
            job = std::move(queue.front());
            queue.pop_front();
        }
        if (job.kind == TierJob::Kind::save) {
            save_from(std::move(job), stop);
            continue;
        }
        TierEvent event = move(job);
        if (job.kind == TierJob::Kind::load) {
            const std::scoped_lock lock(mutex_);
            blocks_loading_ -= blocks_of(job);
        }
        on_event_(std::move(event));
    }
}

/// The next job, where it is a save and nothing else is to be done first.
std::optional<TierJob> TierCopier::next_save(const std::stop_token& stop) {
    const std::scoped_lock lock(mutex_);
    const bool is_next = loads_.empty() && !others_.empty() && others_.front().kind == TierJob::Kind::save;
    if (!is_next || stop.stop_requested()) { return std::nullopt; }
    TierJob job = std::move(others_.front());
    others_.pop_front();
    return job;
}

/// `first`, and saves that wait, as long as no load comes.
void TierCopier::save_from(TierJob first, const std::stop_token& stop) {
    std::deque<TierJob> under_way;
    std::optional<TierJob> given = std::move(first);
    base::TimePoint begin = clock_.now();  // or the end of the one before
    const auto next = [&]() -> std::optional<TierSave> {
        if (under_way.size() == kSavesAtOnceMax) { return std::nullopt; }
        std::optional<TierJob> job = given ? std::exchange(given, std::nullopt) : next_save(stop);
        if (!job) { return std::nullopt; }
        under_way.push_back(std::move(*job));
        const TierJob& kept = under_way.back();
        return TierSave{kept.pieces, kept.hashes, kept.parent};
    };
    bytes_->save_in_turn(access_, next, [&](base::Result<void> saved) {
        const TierJob& job = under_way.front();
        TierEvent event{.id = job.id};
        if (saved) {
            event.blocks_done = blocks_of(job);
        } else {
            event.error = std::move(saved.error());
        }
        event.moved = bytes_->take_moved();
        const base::TimePoint end = clock_.now();
        event.duration = end - std::exchange(begin, end);
        under_way.pop_front();
        on_event_(std::move(event));
    });
    CHECK(under_way.empty(), under_way.size() << " saves have not ended");
}

TierEvent TierCopier::move(const TierJob& job) {
    const base::TimePoint begin = clock_.now();
    TierEvent event{.id = job.id};
    if (job.kind == TierJob::Kind::clear) {
        if (auto cleared = bytes_->clear(); !cleared) { event.error = cleared.error(); }
        return event;
    }
    bool is_late = false;
    bytes_->load_while([&] {
        is_late = is_late || (job.until && clock_.now() >= *job.until);
        return !is_late;
    });
    const auto loaded = bytes_->load(access_, job.pieces, job.hashes);
    bytes_->load_while({});
    event.blocks_done = loaded.value_or(0);
    if (event.blocks_done < blocks_of(job)) {
        event.given_up = is_late;
        event.error = is_late   ? base::Error{base::ErrorCode::cancelled, "loading it took longer than computing it"}
                      : !loaded ? loaded.error()
                                : base::Error{base::ErrorCode::data_loss, "a block of KV is not what was saved"};
    }
    event.moved = bytes_->take_moved();
    event.duration = clock_.now() - begin;
    return event;
}

}  // namespace kv_transfer
