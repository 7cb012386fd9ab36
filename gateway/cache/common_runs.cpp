// What several tenants were answered alike, and how others get it. Who asks is cached_source.cpp's.
#include <algorithm>
#include <utility>

#include "gateway/cache/cached_run.h"

namespace gateway {
namespace {

constexpr double kFirstLeast = 0.8;  // of the time that the model took to begin, when it is blurred
constexpr double kFirstMost = 1.25;

/// Another run like the one that it was: the gaps are its own, in an order of their own, so that nobody who has heard
/// one run knows it again.
void blur(std::vector<caching::SpokenPiece>& pieces, std::mt19937_64& random) {
    std::vector<base::Duration> gaps;
    for (std::size_t at = 1; at < pieces.size(); ++at) {
        gaps.push_back(pieces[at].after - pieces[at - 1].after);
    }
    std::uniform_real_distribution<double> first(kFirstLeast, kFirstMost);
    const auto begin = std::chrono::duration<double, base::Duration::period>(pieces.front().after) * first(random);
    base::Duration at = std::chrono::duration_cast<base::Duration>(begin);
    for (caching::SpokenPiece& piece : pieces) {
        piece.after = at;
        if (!gaps.empty()) { at += gaps[static_cast<std::size_t>(random() % gaps.size())]; }
    }
}

}  // namespace

void CachedSource::note_spoken(Run& run, std::uint32_t tokens) const {
    const caching::SpokenPiece piece{.bytes = static_cast<std::uint32_t>(run.text.size()),
                                     .tokens = tokens,
                                     .after = setup_.clock.now() - run.started_at};
    if (!run.spoken.empty() && run.spoken.back().bytes == piece.bytes) {
        run.spoken.back().tokens = tokens;  // nobody hears it
        return;
    }
    if (run.spoken.size() < caching::CommonAnswers::kPiecesMost) {
        run.spoken.push_back(piece);
    } else {
        run.spoken.back() = piece;
    }
}

void CachedSource::tell_common(const Run& run, const caching::SavedAnswer& answer) {
    if (setup_.common == nullptr || !run.about.common || run.play) { return; }
    setup_.common->see(*run.about.common, {.answer = answer, .pieces = run.spoken, .kv = run.kv});
}

const caching::CommonAnswer* CachedSource::common_for(const CacheAsk& ask) {
    if (setup_.common == nullptr || !ask.common || ask.no_cache || !is_current()) { return nullptr; }
    if (setup_.options.common.blurs && (ask.only_if_cached || playing_ >= setup_.options.waiters_max)) {
        return nullptr;
    }
    const caching::CommonAnswer* found = setup_.common->find(*ask.common);
    if (found == nullptr || is_past(found->answer)) { return nullptr; }
    const std::int64_t age_s = seconds_since(found->answer.created_unix_us, setup_.clock.unix_us());
    return ask.max_age_s && age_s > *ask.max_age_s ? nullptr : found;
}

void CachedSource::give_common(base::RequestId id, const caching::CommonAnswer& common) {
    CacheAsk& ask = *members_.at(id).request.cache;
    const caching::SavedAnswer& kept = common.answer;
    ask.outcome = CacheOutcome::hit;
    ask.kind = kCacheCommon;
    ask.age_s = seconds_since(kept.created_unix_us, setup_.clock.unix_us());
    ask.saved_prompt_tokens = kept.answer.prompt_tokens;
    ask.saved_completion_tokens = kept.answer.completion_tokens;
    setup_.metrics.common_served(ask.model);
    decided(ask, kept.saved_s);
    give(id, caching::SavedText(kept.answer));  // a copy: whoever hears it may change what is common
}

void CachedSource::play(Run& run, const caching::CommonAnswer& common) {
    run.state = Run::State::playing;
    run.started_at = setup_.clock.now();
    run.play = PlayedAnswer{.answer = common.answer.answer, .pieces = common.pieces, .kv = common.kv};
    ++playing_;
    std::vector<caching::SpokenPiece>& pieces = run.play->pieces;
    const std::size_t bytes = run.play->answer.text.size();
    if (pieces.empty() || pieces.back().bytes != bytes) {
        const std::chrono::duration<double> took(common.answer.saved_s);
        pieces = {{.bytes = static_cast<std::uint32_t>(bytes),
                   .tokens = run.play->answer.completion_tokens,
                   .after = std::chrono::duration_cast<base::Duration>(took)}};
    }
    blur(pieces, random_);
    const base::TimePoint first = run.started_at + pieces.front().after;
    on_placed(run);
    if (!run.is_dropped) { set_due(run, first); }
}

void CachedSource::play_on(Run& run) {
    const base::TimePoint now = setup_.clock.now();
    PlayedAnswer& play = *run.play;
    while (play.next < play.pieces.size()) {
        const caching::SpokenPiece piece = play.pieces[play.next];
        if (run.started_at + piece.after > now) {
            set_due(run, run.started_at + piece.after);
            return;
        }
        ++play.next;
        if (!play.first_at) { play.first_at = now; }
        const std::size_t from = run.text.size();
        on_text(run, std::string_view(play.answer.text).substr(from, piece.bytes - from), piece.tokens, kPathOfCache);
        if (run.is_dropped) { return; }  // everybody has left
    }
    GenerationEnd end;
    end.reason = play.answer.is_cut ? EndReason::length : EndReason::stop;
    end.stop_string = play.answer.stop_string;
    end.stop_token = play.answer.stop_token;
    end.prompt_tokens = play.answer.prompt_tokens;
    end.completion_tokens = play.answer.completion_tokens;
    end.reasoning_tokens = play.answer.reasoning_tokens;
    end.first_token_at = play.first_at;
    end.kv = play.kv;
    if (end.completion_tokens > 1) { end.tpot = (now - *play.first_at) / (end.completion_tokens - 1); }
    setup_.metrics.common_served(run.about.model);
    const std::chrono::duration<double> took = now - run.started_at;
    setup_.metrics.saved(run.about.model, end.prompt_tokens, end.completion_tokens, took.count());
    on_end(run, end);
}

void CachedSource::stop_playing() {
    std::vector<std::uint64_t> silent;
    for (const auto& [number, run] : runs_) {
        if (!run->play) { continue; }
        run->is_purged = true;  // what has begun is said to its end, and not kept
        if (run->play->next == 0) { silent.push_back(number); }
    }
    for (const std::uint64_t number : silent) {
        Run* const run = run_of(number);
        if (run == nullptr || !run->play) { continue; }
        run->play.reset();
        --playing_;
        run->is_purged = false;
        start(*run);
    }
}

}  // namespace gateway
