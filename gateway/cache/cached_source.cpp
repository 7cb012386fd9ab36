#include "gateway/cache/cached_source.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "gateway/cache/cached_run.h"

namespace gateway {
namespace {

constexpr std::size_t kTagsMax = 64;  // of one answer, by all who asked for it at one time

}  // namespace

CachedSource::CachedSource(Setup setup)
    : setup_(std::move(setup)), quota_({.per_minute = setup_.options.tenant_writes_per_minute}) {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    random_.seed(seed);
}

CachedSource::~CachedSource() {
    CHECK(members_.empty(), members_.size() << " sequences in front of the model were never ended");
}

CachedSource::Run* CachedSource::run_of(std::uint64_t number) {
    const auto found = runs_.find(number);
    return found == runs_.end() ? nullptr : found->second.get();
}

const caching::SavedAnswer* CachedSource::fresh(const CacheAsk& ask, double relief) {
    if (ask.no_cache || !is_current()) { return nullptr; }
    const caching::SavedAnswer* kept = setup_.book.find(ask.key);
    const std::int64_t now = setup_.clock.unix_us();
    if (kept == nullptr) { return nullptr; }
    const auto lifetime = static_cast<double>(kept->expires_unix_us - kept->created_unix_us);
    const double longer = lifetime * relief * setup_.options.semantic.relief_ttl_growth;
    if (static_cast<double>(now - kept->expires_unix_us) >= longer) { return nullptr; }
    if (ask.max_age_s && seconds_since(kept->created_unix_us, now) > *ask.max_age_s) { return nullptr; }
    return kept;
}

base::RequestId CachedSource::open(GenerationRequest request, GenerationSink& sink) {
    if (request.cache == nullptr || is_stopped_) { return setup_.inner.open(std::move(request), sink); }
    CacheAsk& ask = *request.cache;
    if (!ask.refused.empty()) {
        // Once for all its sequences.
        if (std::exchange(ask.outcome, CacheOutcome::bypass) == CacheOutcome::none) { decided(ask, 0); }
        if (!ask.only_if_cached) { return setup_.inner.open(std::move(request), sink); }
    }
    const base::RequestId id = add_member(std::move(request), sink);
    if (!ask.refused.empty()) {
        fail_member(id,
                    {base::ErrorCode::deadline_exceeded,
                     "only-if-cached: requests like this are not kept (" + std::string(ask.refused) + ")"},
                    0);
        return id;
    }
    const std::size_t model = members_.at(id).request.model;
    const double relief = setup_.relief != nullptr ? setup_.relief->of(model) : 0.0;
    if (setup_.relief != nullptr) { setup_.metrics.relief(ask.model, relief); }
    if (const caching::SavedAnswer* kept = fresh(ask, relief)) {
        const bool is_late = is_past(*kept);
        if (is_late) { setup_.metrics.relieved(ask.model, kCacheExact); }
        give_kept(id, *kept, is_late ? CacheOutcome::stale : CacheOutcome::hit);
        return id;
    }
    ask.outcome = CacheOutcome::miss;
    const auto joinable = joinable_.find(ask.key);
    const bool may_share = setup_.options.coalesce && !ask.no_cache && !ask.only_if_cached;
    if (may_share && joinable != joinable_.end() && waiters_ < setup_.options.waiters_max &&
        may_join(*runs_.at(joinable->second))) {
        join(*runs_.at(joinable->second), id);
        return id;
    }
    const caching::CommonAnswer* const common = common_for(ask);
    if (common != nullptr && !setup_.options.common.blurs) {
        give_common(id, *common);
        return id;
    }
    Run& run = make_run(ask);
    run.members.push_back(id);
    members_.at(id).run = &run;
    members_.at(id).is_leader = true;
    if (may_share) { joinable_[ask.key] = run.number; }
    run.relief = relief;
    if (common != nullptr) {
        play(run, *common);
    } else if (!ask_shared(run)) {
        search(run);
    }
    return id;
}

/// What was purged elsewhere since it began may not be known here; it is within the lease.
bool CachedSource::may_join(const Run& run) const {
    return is_current() || setup_.clock.now() - run.made_at < setup_.options.shared.lease;
}

bool CachedSource::ask_shared(Run& run) {
    if (setup_.shared == nullptr || run.about.no_cache) { return false; }
    const auto found = [this, number = run.number](const std::optional<caching::SavedAnswer>& answer) {
        shared_found(number, answer);
    };
    if (!setup_.shared->look_up(run.about.key, found)) {
        setup_.metrics.shared_lookup("away");
        return false;
    }
    run.state = Run::State::asking;
    set_due(run, setup_.clock.now() + setup_.options.shared.patience);
    return true;
}

void CachedSource::shared_found(std::uint64_t number, const std::optional<caching::SavedAnswer>& answer) {
    Run* run = run_of(number);
    if (run == nullptr || run->is_dropped || run->state != Run::State::asking) { return; }  // too late
    const bool is_found = answer && !run->is_purged;
    setup_.metrics.shared_lookup(is_found ? "hit" : "miss");
    if (is_found) {
        setup_.book.put(*answer);
        tell_standing();
        const caching::SavedAnswer* const placed = setup_.book.find(run->about.key);
        const caching::SavedAnswer kept = placed != nullptr ? *placed : *answer;
        for (const base::RequestId id : std::vector(run->members)) {
            const auto member = members_.find(id);
            if (member == members_.end()) { continue; }
            const CacheAsk& ask = *member->second.request.cache;
            const auto age_s = seconds_since(kept.created_unix_us, setup_.clock.unix_us());
            if (!ask.max_age_s || age_s <= *ask.max_age_s) { give_kept(id, kept, CacheOutcome::hit); }
        }
    }
    if (Run* same = run_of(number); same != nullptr && !same->is_dropped) { search(*same); }
}

void CachedSource::search(Run& run) {
    if (setup_.similar == nullptr || run.about.question == nullptr || run.about.no_cache || !is_current()) {
        start(run);
        return;
    }
    run.state = Run::State::looking;
    set_due(run, setup_.clock.now() + setup_.options.lookup_timeout);
    const std::uint64_t number = run.number;
    if (setup_.vectors == nullptr || !run.about.encoded) {
        look_up(number, nullptr);
        return;
    }
    const EncodedQuestion encoded = *run.about.encoded;
    setup_.vectors->get(run.about.tenant, encoded,
                        [this, number](const SharedVector& vector) { look_up(number, vector); });
}

void CachedSource::look_up(std::uint64_t number, const SharedVector& vector) {
    Run* run = run_of(number);
    if (run == nullptr || run->is_dropped || run->state == Run::State::ended) { return; }
    const auto found = [this, number](const std::optional<SimilarAnswer>& answer, caching::Probe probe) {
        similar_found(number, answer, std::move(probe));
    };
    if (setup_.similar->look_up(run->about.question, run->relief, vector, found)) { return; }
    setup_.metrics.lookup_skipped("queue_full");
    if (run->state == Run::State::looking) { start(*run); }
}

base::RequestId CachedSource::add_member(GenerationRequest request, GenerationSink& sink) {
    base::RequestId id{random_()};
    while (members_.contains(id)) {
        id = base::RequestId{random_()};
    }
    Member member;
    member.request = std::move(request);
    member.sink = &sink;
    members_.emplace(id, std::move(member));
    return id;
}

CachedSource::Run& CachedSource::make_run(const CacheAsk& ask) {
    const std::uint64_t number = next_run_++;
    auto& run = runs_[number] = std::make_unique<Run>(*this, number);
    run->about = ask;
    run->made_at = setup_.clock.now();
    if (setup_.shared != nullptr) { run->since = setup_.shared->now(); }
    return *run;
}

void CachedSource::join(Run& run, base::RequestId id) {
    Member& member = members_.at(id);
    member.run = &run;
    member.request.cache->outcome = CacheOutcome::coalesced;
    member.request.cache->kind = kCacheExact;
    for (const std::string& tag : member.request.cache->tags) {
        auto& tags = run.about.tags;
        if (tags.size() < kTagsMax && std::find(tags.begin(), tags.end(), tag) == tags.end()) { tags.push_back(tag); }
    }
    run.members.push_back(id);
    ++waiters_;
    tell_standing();
    if (run.is_placed) {
        member.is_placed = true;
        member.sink->on_placed();
    }
    if (const auto one = members_.find(id); run.has_text && one != members_.end()) {
        one->second.has_text = true;
        one->second.heard_at = setup_.clock.now();
        one->second.heard_bytes = run.text.size();
        one->second.sink->on_piece({.text = run.text, .tokens = {}}, run.tokens, kPathOfCache);
    }
}

void CachedSource::start(Run& run) {
    // Who takes nothing but what is there already is told so now.
    for (const base::RequestId id : std::vector(run.members)) {
        const auto member = members_.find(id);
        if (member != members_.end() && member->second.request.cache->only_if_cached) {
            decided(*member->second.request.cache, 0);
            fail_member(id, {base::ErrorCode::deadline_exceeded, "only-if-cached: there is no answer to this request"},
                        0);
        }
    }
    if (run.is_dropped) { return; }
    run.state = Run::State::running;
    set_due(run, std::nullopt);
    run.started_at = setup_.clock.now();
    Member& leader = members_.at(run.members.front());
    if (!leader.is_leader) {
        leader.is_leader = true;
        --waiters_;
        tell_standing();
    }
    GenerationRequest request = leader.request;
    const std::uint64_t number = run.number;
    const base::RequestId id = setup_.inner.open(std::move(request), run);
    // It may be over, and another one's begun, from inside.
    Run* same = run_of(number);
    if (same != nullptr && same == &run && run.state == Run::State::running && !run.id) { run.id = id; }
    if (run.is_dropped && run.state == Run::State::running) { setup_.inner.cancel(id, "client_gone"); }
}

void CachedSource::set_due(Run& run, std::optional<base::TimePoint> at) {
    if (run.due) { due_.erase({*run.due, run.number}); }
    run.due = at;
    if (!at) { return; }
    due_.emplace(*at, run.number);
    if (setup_.wake) { setup_.wake(*at); }
}

std::optional<base::TimePoint> CachedSource::tick(base::TimePoint now) {
    while (!due_.empty() && due_.begin()->first <= now) {
        Run* const run = run_of(due_.begin()->second);
        CHECK(run != nullptr);  // drop() takes it out of both
        set_due(*run, std::nullopt);
        if (run->state == Run::State::asking) {
            setup_.metrics.shared_lookup("late");
            search(*run);
        } else if (run->state == Run::State::looking) {
            setup_.metrics.lookup_skipped("timeout");
            start(*run);
        } else if (run->state == Run::State::playing) {
            play_on(*run);
        }
    }
    return due_.empty() ? std::nullopt : std::optional(due_.begin()->first);
}

void CachedSource::similar_found(std::uint64_t number, const std::optional<SimilarAnswer>& answer,
                                 caching::Probe probe) {
    Run* run = run_of(number);
    if (run == nullptr || run->is_dropped || run->state == Run::State::ended) { return; }
    if (!answer) { run->probe = probe; }
    if (run->state != Run::State::looking) { return; }  // too late, but what it found out is of use
    if (answer) {
        std::optional<GenerationRequest> shadow;
        const std::shared_ptr<const caching::Question> question = run->about.question;
        for (const base::RequestId id : std::vector(run->members)) {
            const auto member = members_.find(id);
            if (member == members_.end()) { continue; }
            CacheAsk& ask = *member->second.request.cache;
            if (ask.max_age_s && answer->age_s > *ask.max_age_s) { continue; }
            ask.outcome = answer->is_late ? CacheOutcome::stale : CacheOutcome::hit;
            if (answer->is_relieved) { setup_.metrics.relieved(ask.model, kCacheSimilar); }
            ask.kind = answer->is_exact ? kCacheExact : kCacheSimilar;
            ask.entry = "s-" + std::to_string(answer->entry);
            ask.age_s = answer->age_s;
            if (!answer->is_exact) { ask.similarity = answer->similarity; }
            ask.saved_prompt_tokens = answer->answer.prompt_tokens;
            ask.saved_completion_tokens = answer->answer.completion_tokens;
            decided(ask, answer->saved_s);
            if (answer->shadow_wanted && !shadow) { shadow = member->second.request; }
            give(id, answer->answer);
        }
        if (shadow) { begin_shadow(*shadow, question, std::move(probe)); }
    }
    if (Run* same = run_of(number); same != nullptr && !same->is_dropped) { start(*same); }
}

void CachedSource::begin_shadow(const GenerationRequest& request, std::shared_ptr<const caching::Question> question,
                                caching::Probe probe) {
    const bool is_idle = runs_.size() - shadows_ - playing_ <= setup_.options.shadow_busy_max &&
                         shadows_ < setup_.options.shadows_max && setup_.inner.has_room(1) && !is_stopped_;
    setup_.metrics.shadow(is_idle ? "begun" : "busy");
    if (!is_idle) { return; }
    Run& run = make_run(*request.cache);
    run.is_shadow = true;
    run.about.question = std::move(question);
    run.probe = std::move(probe);
    run.started_at = setup_.clock.now();
    ++shadows_;
    GenerationRequest copy = request;
    copy.cache = nullptr;
    copy.routed = nullptr;
    copy.slo = {};  // nobody waits for it
    const std::uint64_t number = run.number;
    const base::RequestId id = setup_.inner.open(std::move(copy), run);
    if (Run* same = run_of(number)) { same->id = id; }
}

void CachedSource::give_kept(base::RequestId id, const caching::SavedAnswer& kept, CacheOutcome outcome) {
    CacheAsk& ask = *members_.at(id).request.cache;
    ask.outcome = outcome;
    ask.kind = kCacheExact;
    ask.entry = "e-" + std::to_string(kept.id);
    ask.age_s = seconds_since(kept.created_unix_us, setup_.clock.unix_us());
    ask.saved_prompt_tokens = kept.answer.prompt_tokens;
    ask.saved_completion_tokens = kept.answer.completion_tokens;
    decided(ask, kept.saved_s);
    give(id, caching::SavedText(kept.answer));  // a copy: whoever hears it may change the book
}

void CachedSource::give(base::RequestId id, const caching::SavedText& answer) {
    const auto member_of = [&]() -> Member* {
        const auto found = members_.find(id);
        return found == members_.end() ? nullptr : &found->second;
    };
    const base::TimePoint now = setup_.clock.now();
    if (Member* member = member_of(); member != nullptr && !std::exchange(member->is_placed, true)) {
        member->sink->on_placed();
    }
    if (Member* member = member_of()) {
        member->sink->on_piece({.text = answer.text, .tokens = {}}, answer.completion_tokens, kPathOfCache);
    }
    if (member_of() == nullptr) { return; }
    GenerationEnd end;
    end.reason = answer.is_cut ? EndReason::length : EndReason::stop;
    end.stop_string = answer.stop_string;
    end.stop_token = answer.stop_token;
    end.prompt_tokens = answer.prompt_tokens;
    end.cached_tokens = answer.cached_tokens;
    end.completion_tokens = answer.completion_tokens;
    end.reasoning_tokens = answer.reasoning_tokens;
    end.first_token_at = now;
    leave(id, end);
}

void CachedSource::leave(base::RequestId id, const GenerationEnd& end) {
    auto node = members_.extract(id);
    if (node.empty()) { return; }
    const Member& member = node.mapped();
    if (Run* run = member.run) {
        run->members.erase(std::remove(run->members.begin(), run->members.end(), id), run->members.end());
        if (!member.is_leader) {
            --waiters_;
            tell_standing();
        }
        if (run->members.empty() && !run->is_dropped && run->state != Run::State::ended) {
            const bool is_at_model = run->state == Run::State::running;
            const auto at_model = run->id;
            drop(*run);
            if (is_at_model && at_model) { setup_.inner.cancel(*at_model, "client_gone"); }
        }
    }
    member.sink->on_end(end);
}

void CachedSource::fail_member(base::RequestId id, const base::Error& error, std::uint32_t retry_after_ms) {
    GenerationEnd end;
    end.reason = EndReason::failed;
    end.error = error;
    end.retry_after_ms = retry_after_ms;
    leave(id, end);
}

void CachedSource::cancel(base::RequestId id, std::string_view cause) {
    if (!members_.contains(id)) {
        setup_.inner.cancel(id, cause);
        return;
    }
    GenerationEnd end;
    end.reason = EndReason::cancelled;
    leave(id, end);
}

void CachedSource::purge(const caching::AnswerFilter& filter) {
    for (const auto& [number, run] : runs_) {
        caching::SavedAnswer likely;
        likely.key = run->about.key;
        likely.tenant = run->about.tenant;
        likely.model = run->about.model;
        likely.revision = run->about.revision;
        likely.tags = run->about.tags;
        if (!filter.matches(likely)) { continue; }
        run->is_purged = true;
        const auto joinable = joinable_.find(run->about.key);
        if (joinable != joinable_.end() && joinable->second == number) { joinable_.erase(joinable); }
    }
    stop_playing();
}

void CachedSource::stop() {
    is_stopped_ = true;
    std::vector<base::RequestId> left;
    for (const auto& [id, member] : members_) {
        left.push_back(id);
    }
    for (const base::RequestId id : left) {
        cancel(id, "drain");
    }
    std::vector<base::RequestId> shadows;
    for (const auto& [number, run] : runs_) {
        if (run->id) { shadows.push_back(*run->id); }
    }
    for (const base::RequestId id : shadows) {
        setup_.inner.cancel(id, "drain");
    }
}

void CachedSource::decided(const CacheAsk& ask, double saved_s) {
    setup_.metrics.decided(ask, saved_s);
    tenants_.decided(ask, saved_s);
}

void CachedSource::tell_standing() {
    const auto counts = setup_.book.counts();
    setup_.metrics.standing(counts.entries, counts.bytes, counts.evicted, waiters_);
}

}  // namespace gateway
