// What runs of the model say, and what becomes of those who wait for them. Who asks is cached_source.cpp's.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "caching/semantic/question.h"
#include "gateway/cache/cached_run.h"

namespace gateway {
namespace {

constexpr int kPromotionsMax = 3;  // of one run, after each other: then all who wait for it fail
constexpr const char* kOtherWords = "the run that this answer came from failed, and its repeat says something else";

}  // namespace

void CachedSource::on_placed(Run& run) {
    run.is_placed = true;
    for (const base::RequestId id : std::vector(run.members)) {
        const auto member = members_.find(id);
        if (member != members_.end() && !std::exchange(member->second.is_placed, true)) {
            member->second.sink->on_placed();
        }
    }
}

void CachedSource::on_text(Run& run, std::string_view text, std::uint32_t tokens, std::string_view path) {
    run.text += text;
    run.tokens = tokens;
    run.path = path;
    run.has_text = true;
    if (setup_.common != nullptr && run.about.common && !run.play) { note_spoken(run, tokens); }
    if (run.text.size() > setup_.options.answer_bytes_max) {
        // Too long to be kept, and for others to hear from the beginning.
        const auto joinable = joinable_.find(run.about.key);
        if (joinable != joinable_.end() && joinable->second == run.number) { joinable_.erase(joinable); }
    }
    const base::TimePoint now = setup_.clock.now();
    for (const base::RequestId id : std::vector(run.members)) {
        const auto found = members_.find(id);
        if (found == members_.end()) { continue; }
        Member& member = found->second;
        const std::size_t both = std::min(member.heard_bytes, run.text.size());
        if (member.is_ahead && run.text.compare(0, both, run.told, 0, both) != 0) {
            fail_member(id, {base::ErrorCode::unavailable, kOtherWords}, 0);
            continue;
        }
        if (run.text.size() < member.heard_bytes) { continue; }
        const std::size_t from = std::exchange(member.heard_bytes, run.text.size());
        member.is_ahead = false;
        member.has_text = true;
        if (!member.heard_at) { member.heard_at = now; }
        member.sink->on_piece({.text = run.text.substr(from), .tokens = {}}, tokens,
                              member.is_leader ? path : kPathOfCache);
    }
}

void CachedSource::on_end(Run& run, const GenerationEnd& end) {
    const bool was_dropped = run.is_dropped;
    run.state = Run::State::ended;
    if (was_dropped) {
        if (run.is_shadow) { --shadows_; }
        return;
    }
    if (end.reason == EndReason::failed) {
        run_failed(run, end);
        return;
    }
    caching::SavedText answer{.text = run.text,
                              .is_cut = end.reason == EndReason::length,
                              .stop_string = end.stop_string,
                              .stop_token = end.stop_token,
                              .prompt_tokens = end.prompt_tokens,
                              .cached_tokens = end.cached_tokens,
                              .completion_tokens = end.completion_tokens,
                              .reasoning_tokens = end.reasoning_tokens};
    run.kv = end.kv;
    const auto members = std::exchange(run.members, {});
    drop(run);
    if (run.is_shadow) {
        --shadows_;
        if (end.reason == EndReason::stop && setup_.similar != nullptr && run.probe) {
            setup_.similar->observe_shadow(run.about.question, std::move(*run.probe), answer);
        }
        return;
    }
    if (end.reason != EndReason::cancelled) { keep(run, answer); }
    const double took = std::chrono::duration<double>(setup_.clock.now() - run.started_at).count();
    for (const base::RequestId id : members) {
        const auto found = members_.find(id);
        if (found == members_.end()) { continue; }
        Member& member = found->second;
        if (member.is_ahead) {
            fail_member(id, {base::ErrorCode::unavailable, kOtherWords}, 0);
            continue;
        }
        CacheAsk& ask = *member.request.cache;
        GenerationEnd own = end;
        if (!member.is_leader) {
            own.timeline = nullptr;  // another one's
            own.first_token_at = member.heard_at;
            ask.saved_prompt_tokens = end.prompt_tokens;
            ask.saved_completion_tokens = end.completion_tokens;
        }
        decided(ask, member.is_leader ? 0 : took);
        leave(id, own);
    }
}

bool CachedSource::serve_stale(base::RequestId id) {
    const Member& member = members_.at(id);
    const CacheAsk& ask = *member.request.cache;
    if (member.has_text || !ask.stale_if_error_s) { return false; }
    const caching::SavedAnswer* kept = setup_.book.find(ask.key);
    const std::int64_t now = setup_.clock.unix_us();
    if (kept == nullptr || !is_current() || seconds_since(kept->expires_unix_us, now) > *ask.stale_if_error_s) {
        return false;
    }
    give_kept(id, *kept, CacheOutcome::stale);
    return true;
}

void CachedSource::run_failed(Run& run, const GenerationEnd& end) {
    auto members = std::exchange(run.members, {});
    drop(run);
    if (run.is_shadow) {
        --shadows_;
        return;
    }
    const bool can_promote = run.promotions < kPromotionsMax && !is_stopped_;
    std::vector<base::RequestId> waiting;
    for (const base::RequestId id : members) {
        const auto found = members_.find(id);
        if (found == members_.end() || serve_stale(id)) { continue; }
        if (can_promote && !members_.at(id).is_leader) {
            waiting.push_back(id);
            continue;
        }
        decided(*members_.at(id).request.cache, 0);
        GenerationEnd own = end;
        if (!members_.at(id).is_leader) { own.timeline = nullptr; }
        leave(id, own);
    }
    waiting.erase(
        std::remove_if(waiting.begin(), waiting.end(), [this](base::RequestId id) { return !members_.contains(id); }),
        waiting.end());
    if (waiting.empty()) { return; }
    setup_.metrics.promoted();
    Run& next = make_run(*members_.at(waiting.front()).request.cache);
    next.promotions = run.promotions + 1;
    next.told = run.told.size() > run.text.size() ? run.told : run.text;
    next.members = waiting;
    next.about.tags = run.about.tags;
    next.is_purged = run.is_purged;
    next.since = run.since;
    next.made_at = run.made_at;
    next.probe = std::move(run.probe);
    for (const base::RequestId id : waiting) {
        Member& member = members_.at(id);
        member.run = &next;
        member.is_ahead = member.heard_bytes > 0;
    }
    Member& first = members_.at(waiting.front());
    if (!first.has_text) {
        first.request.cache->outcome = CacheOutcome::miss;
        first.request.cache->kind = {};
    }
    if (setup_.options.coalesce) { joinable_[next.about.key] = next.number; }
    start(next);
}

void CachedSource::keep(Run& run, const caching::SavedText& answer) {
    const auto refused = [&]() -> std::string_view {
        if (run.is_purged) { return "purged"; }
        if (answer.is_cut && !setup_.options.allow_cut) { return "cut"; }
        if (answer.text.empty()) { return "empty"; }
        if (answer.text.size() > setup_.options.answer_bytes_max) { return "too_large"; }
        if (!setup_.options.semantic.rules.allow_personal && caching::is_personal(answer.text)) { return "personal"; }
        if (!quota_.take(run.about.tenant, setup_.clock.now())) { return "quota"; }
        return {};
    }();
    if (!refused.empty()) {
        setup_.metrics.stored(refused);
        return;
    }
    const double took = std::chrono::duration<double>(setup_.clock.now() - run.started_at).count();
    const std::int64_t now = setup_.clock.unix_us();
    const std::int64_t ttl = std::chrono::duration_cast<std::chrono::microseconds>(setup_.options.ttl).count();
    const caching::SavedAnswer saved{.id = 0,
                                     .key = run.about.key,
                                     .tenant = run.about.tenant,
                                     .model = run.about.model,
                                     .revision = run.about.revision,
                                     .tags = run.about.tags,
                                     .created_unix_us = now,
                                     .expires_unix_us = now + ttl,
                                     .saved_s = took,
                                     .answer = answer};
    tell_common(run, saved);
    if (setup_.keep) { setup_.keep(saved, run.since); }
    if (setup_.similar != nullptr && run.about.question != nullptr && run.probe && !answer.is_cut) {
        setup_.similar->store(run.about.question, std::move(*run.probe), answer, took, run.about.tags);
    }
}

void CachedSource::drop(Run& run) {
    run.is_dropped = true;
    set_due(run, std::nullopt);
    if (run.play) { --playing_; }
    const auto joinable = joinable_.find(run.about.key);
    if (joinable != joinable_.end() && joinable->second == run.number) { joinable_.erase(joinable); }
    const auto at = runs_.find(run.number);
    CHECK(at != runs_.end());
    // Its own calls may be on the stack, and the model's last word for it may still come.
    setup_.post([kept = std::shared_ptr<Run>(std::move(at->second))] {});
    runs_.erase(at);
}

}  // namespace gateway
