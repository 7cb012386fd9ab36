#include "worker/kv_fetcher.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "kv_transfer/rate/both_ends.h"

namespace worker {

using base::ErrorCode;

namespace {

/// So many fetches are left out in turn because computing is quicker: a slow wire may have become quick.
constexpr std::uint32_t kTriedAgainAfter = 16;
/// Of each run in what is learned of a worker.
constexpr double kLearningStep = 0.25;
/// Blocks of a run that comes while steps compute.
constexpr std::uint32_t kBackBlocksMin = 8;

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

/// Label `outcome` of sluice_kv_fetches_total.
const char* outcome_of(const std::optional<base::Error>& error, bool got_any) {
    if (!error) { return "complete"; }
    if (got_any) { return "partial"; }
    switch (error->code) {
        case ErrorCode::not_found:
            return "not_found";
        case ErrorCode::resource_exhausted:
            return "busy";
        case ErrorCode::deadline_exceeded:
            return "timeout";
        case ErrorCode::unavailable:
            return "peer_lost";
        case ErrorCode::cancelled:
            return "cancelled";
        default:
            return "refused";
    }
}

}  // namespace

struct KvFetcher::Instruments {
    explicit Instruments(base::Metrics& metrics)
        : blocks(metrics.counter("sluice_kv_fetched_blocks_total",
                                 "KV blocks that came from another worker instead of being computed")),
          duration(metrics.histogram("sluice_kv_fetch_duration_seconds",
                                     "From asking another worker for the KV of a prompt until the last of it came",
                                     base::ttft_edges())) {
        for (const char* outcome :
             {"complete", "partial", "not_found", "busy", "timeout", "peer_lost", "cancelled", "refused", "slower"}) {
            fetches[outcome] = &metrics.counter("sluice_kv_fetches_total",
                                                "Prompts whose KV another worker was asked for, by how that ended",
                                                {{"outcome", outcome}});
        }
    }
    void ended(const std::optional<base::Error>& error, std::uint32_t blocks_came) {
        fetches.at(outcome_of(error, blocks_came > 0))->Increment();
        blocks.Increment(blocks_came);
    }

    std::map<std::string, prometheus::Counter*, std::less<>> fetches;
    prometheus::Counter& blocks;
    prometheus::Histogram& duration;
};

KvFetcher::KvFetcher(const WorkerOptions& options, base::Incarnation incarnation, StepControl& control,
                     KvFetchPort& port, base::Metrics& metrics)
    : options_(options),
      incarnation_(incarnation),
      control_(control),
      port_(port),
      instruments_(std::make_unique<Instruments>(metrics)) {}

KvFetcher::~KvFetcher() = default;

void KvFetcher::admitted(Sequence& sequence) {
    const bool loads_already = sequence.state != SequenceState::running || sequence.from_end;
    if (!sequence.request.kv_source || loads_already) { return; }
    const KvSource source = *std::exchange(sequence.request.kv_source, std::nullopt);
    if (options_.fetches_max == 0 || source.worker.incarnation == incarnation_ || sequence.wants_prompt_scores()) {
        return;
    }
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const auto tokens_max = static_cast<std::uint32_t>(sequence.tokens.size()) - 1;
    Fetch fetch;
    fetch.source = source.worker;
    fetch.first = fetch.next = sequence.computed_tokens / block_tokens;
    fetch.end = fetch.begin = std::min(std::min(source.kv_tokens, tokens_max) / block_tokens,
                                       static_cast<std::uint32_t>(sequence.chain.size()));
    if (fetch.first >= fetch.end) { return; }
    fetch.began = fetch.landed_at = control_.clock().now();
    fetch.deadline = fetch.began + options_.fetch_timeout;
    if (source.give_up) { fetch.deadline = std::min(fetch.deadline, *source.give_up); }
    if (sequence.request.deadline) { fetch.deadline = std::min(fetch.deadline, *sequence.request.deadline); }
    const Way way = way_for(fetch, sequence);
    if (way == Way::compute) { return instruments_->fetches.at("slower")->Increment(); }
    fetch.is_back = way == Way::both;
    const auto at = fetches_.insert_or_assign(sequence.request.key, std::move(fetch)).first;
    if (way == Way::both) { return go_on_back(at, sequence); }
    ask_for_more(at->second, sequence);
    if (at->second.runs.empty()) {
        instruments_->ended(at->second.error, 0);
        fetches_.erase(at);
        return;
    }
    control_.make_loading(sequence);
}

/// As long as nothing is known of that worker, or of computing: fetching, which teaches it.
KvFetcher::Way KvFetcher::way_for(const Fetch& fetch, const Sequence& sequence) {
    const auto known = seconds_per_block_.find(fetch.source.kv_address);
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const std::uint32_t blocks = fetch.end - fetch.first;
    const auto computing = control_.predict_prefill(fetch.first * block_tokens, blocks * block_tokens);
    if (known == seconds_per_block_.end() || !computing) { return Way::fetch; }
    kv_transfer::KvWaySeconds seconds{known->second * blocks, seconds_of(*computing), seconds_of(*computing)};
    if (options_.kv_both_ends && blocks >= 2 * kBackBlocksMin) {
        const std::uint32_t meeting = meeting_block(fetch, fetch.first, fetch.end);
        const auto front = control_.predict_prefill(fetch.first * block_tokens, (meeting - fetch.first) * block_tokens);
        seconds.both = std::max(known->second * (fetch.end - meeting), front ? seconds_of(*front) : 0);
    }
    std::optional<double> left;
    if (sequence.request.slo.first_token) { left = seconds_of(*sequence.request.slo.first_token - fetch.began); }
    switch (kv_transfer::choose_kv_way(seconds, left)) {
        case kv_transfer::KvWay::load:
            break;
        case kv_transfer::KvWay::both:
            return Way::both;
        case kv_transfer::KvWay::compute:
            if (++left_out_ < kTriedAgainAfter) { return Way::compute; }
            break;
    }
    left_out_ = 0;
    return Way::fetch;
}

/// The first of blocks [first, end) that is fetched where steps compute those before it.
std::uint32_t KvFetcher::meeting_block(const Fetch& fetch, std::uint32_t first, std::uint32_t end) const {
    const double seconds_per_block = seconds_per_block_.at(fetch.source.kv_address);
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const auto computing = [&](std::uint32_t from, std::uint32_t to) {
        const auto taken = control_.predict_prefill(from * block_tokens, (to - from) * block_tokens);
        return taken ? seconds_of(*taken) : 0;
    };
    const auto fetching = [&](std::uint32_t from, std::uint32_t to) { return seconds_per_block * (to - from); };
    return kv_transfer::meeting_of(first, end, computing, fetching).block;
}

/// What a block took: since the run before it had come, or since it was asked for.
void KvFetcher::learn(Fetch& fetch, const Run& run, std::uint32_t blocks) {
    const base::TimePoint now = control_.clock().now();
    const base::TimePoint since = std::max(run.asked_at, std::exchange(fetch.landed_at, now));
    if (blocks == 0) { return; }
    const double seconds = seconds_of(now - since) / blocks;
    if (seconds_per_block_.size() >= kPeersKnown && !seconds_per_block_.contains(fetch.source.kv_address)) {
        seconds_per_block_.erase(seconds_per_block_.begin());
    }
    const auto [learned, is_new] = seconds_per_block_.emplace(fetch.source.kv_address, seconds);
    if (!is_new) { learned->second += kLearningStep * (seconds - learned->second); }
}

base::Result<void> KvFetcher::ask(Fetch& fetch, const Sequence& sequence, std::uint32_t first, std::uint32_t count) {
    Run run;
    run.first = first;
    run.count = count;
    run.asked_at = control_.clock().now();
    run.key = {sequence.request.key.request, sequence.request.key.epoch, fetch.source.incarnation, incarnation_,
               next_run_};
    const auto asked = port_.fetch({.key = run.key,
                                    .kv_address = fetch.source.kv_address,
                                    .hashes = std::span(sequence.chain).subspan(first, count),
                                    .blocks = sequence.kv->blocks().subspan(first, count),
                                    .answer_timeout = options_.fetch_answer,
                                    .lease = options_.kv_lease,
                                    .deadline = fetch.deadline});
    if (!asked) { return asked; }
    run.hold = control_.cache().hold(*sequence.kv, first, count);
    if (++next_run_ == 0) { next_run_ = 1; }
    fetch.runs.push_back(std::move(run));
    return {};
}

/// Keeps up to kRunsAtOnce runs under way. When none more can begin here now, those that are under way go on; without
/// any the fetch ends where it stands.
void KvFetcher::ask_for_more(Fetch& fetch, const Sequence& sequence) {
    while (fetch.next < fetch.end && fetch.runs.size() < kRunsAtOnce) {
        const std::uint32_t count =
            std::min(fetch.end - fetch.next, static_cast<std::uint32_t>(kv_transfer::kFetchBlocksMax));
        if (const auto asked = ask(fetch, sequence, fetch.next, count); !asked) {
            if (fetch.runs.empty()) { cut(fetch, fetch.next, asked.error()); }
            return;
        }
        fetch.next += count;
    }
}

/// Says anew where both ends meet, by what they took up to now, and goes on with either.
void KvFetcher::go_on_back(Fetches::iterator at, Sequence& sequence) {
    Fetch& fetch = at->second;
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const std::uint32_t computed = control_.cache().blocks_for(sequence.computed_after_step());
    std::uint32_t until = fetch.asks_no_more ? fetch.begin : meeting_block(fetch, computed, fetch.begin);
    while (!fetch.asks_no_more && until < fetch.begin && fetch.runs.size() < kRunsAtOnceBack) {
        const std::uint32_t most = fetch.begin - until;
        const std::uint32_t count = std::min(
            most, std::clamp(most / 2, kBackBlocksMin, static_cast<std::uint32_t>(kv_transfer::kFetchBlocksMax)));
        if (const auto asked = ask(fetch, sequence, fetch.begin - count, count); !asked) {
            fetch.asks_no_more = true;
            if (!fetch.error) { fetch.error = asked.error(); }
            break;
        }
        fetch.begin -= count;
    }
    if (fetch.asks_no_more || fetch.runs.empty()) { until = fetch.begin; }  // all of it is computed
    // What counts no more may still be written.
    for (const Run& run : fetch.runs) {
        until = std::min(until, run.first);
    }
    const bool has_met = sequence.step_tokens == 0 && sequence.computed_tokens == fetch.begin * block_tokens;
    const bool has_nothing = fetch.begin == fetch.end;
    if (fetch.runs.empty() && (has_met || has_nothing)) { return finish(sequence.request.key); }
    control_.load_from_end(sequence, {until * block_tokens, fetch.begin * block_tokens, fetch.end * block_tokens});
}

void KvFetcher::front_computed(Sequence& sequence) {
    const auto at = fetches_.find(sequence.request.key);
    if (at != fetches_.end() && at->second.is_back) { go_on_back(at, sequence); }
}

/// Of a run from the end only its first blocks came: what lies behind them has to be computed, so nothing before it
/// counts. Unless nothing behind it came either: then it ends there.
void KvFetcher::cut_back(Fetch& fetch, const Run& run, std::uint32_t blocks_came, base::Error why) {
    const std::uint32_t end = run.first + run.count;
    if (!fetch.error) { fetch.error = why; }
    if (end == fetch.end && why.code == ErrorCode::not_found) {
        fetch.end = run.first + blocks_came;
        fetch.begin = std::min(fetch.begin, fetch.end);
        return;
    }
    fetch.asks_no_more = true;
    fetch.begin = std::max(fetch.begin, end);
    for (const Run& other : fetch.runs) {
        if (other.first < run.first && !other.is_over) {
            port_.abort(other.key, base::Error{ErrorCode::cancelled, "what comes after it is missing"});
        }
    }
}

/// Nothing from block `end` on will count.
void KvFetcher::cut(Fetch& fetch, std::uint32_t end, base::Error why) {
    if (end >= fetch.end) { return; }
    fetch.end = end;
    fetch.error = std::move(why);
    for (const Run& run : fetch.runs) {
        if (run.first >= end && !run.is_over) {
            port_.abort(run.key, base::Error{ErrorCode::cancelled, "what comes before it is missing"});
        }
    }
}

void KvFetcher::on_event(kv_transfer::ReceiverEvent event) {
    const auto key = event.key;
    if (!control_.post([this, event = std::move(event)] { apply(event); })) {
        spdlog::debug("event of fetch {} came after the end", kv_transfer::to_string(key));
    }
}

void KvFetcher::apply(const kv_transfer::ReceiverEvent& event) {
    using Kind = kv_transfer::ReceiverEvent::Kind;
    const RequestKey request{event.key.request, event.key.epoch};
    const auto at = fetches_.find(request);
    const auto run = at == fetches_.end() ? std::deque<Run>::iterator{}
                                          : std::find_if(at->second.runs.begin(), at->second.runs.end(),
                                                         [&](const Run& r) { return r.key == event.key; });
    if (at == fetches_.end() || run == at->second.runs.end()) {
        if (event.kind == Kind::released) { stranded_.erase(event.key); }
        return;
    }
    Fetch& fetch = at->second;
    switch (event.kind) {
        case Kind::room_requested:
        case Kind::front:
            CHECK(false, "fetch " << kv_transfer::to_string(event.key) << " asks for room, or for its front");
            return;
        case Kind::completed: {
            CHECK(!event.is_lossy, "fetch " << kv_transfer::to_string(event.key));
            run->is_over = true;
            const std::uint32_t blocks = event.kv_tokens / control_.cache().options().block_tokens;
            learn(fetch, *run, blocks);
            if (blocks < run->count) {
                base::Error why{ErrorCode::not_found, "the other worker has no more of it"};
                if (fetch.is_back) { return cut_back(fetch, *run, blocks, std::move(why)); }
                cut(fetch, run->first + blocks, std::move(why));
            }
            return;
        }
        case Kind::failed: {
            run->is_over = true;
            auto why = event.error.value_or(base::Error{ErrorCode::internal, "no reason was given"});
            if (fetch.is_back) { return cut_back(fetch, *run, 0, std::move(why)); }
            return cut(fetch, run->first, std::move(why));
        }
        case Kind::released:
            fetch.runs.erase(run);
            break;
    }
    Sequence* sequence = control_.find(request);
    CHECK(sequence != nullptr && sequence->kv, "a fetch without its sequence");
    if (fetch.is_back) { return go_on_back(at, *sequence); }
    ask_for_more(fetch, *sequence);
    if (fetch.runs.empty()) { finish(request); }
}

void KvFetcher::finish(RequestKey request) {
    auto node = fetches_.extract(request);
    const Fetch& fetch = node.mapped();
    const std::uint32_t blocks = fetch.end - (fetch.is_back ? fetch.begin : fetch.first);
    instruments_->ended(fetch.error, blocks);
    instruments_->duration.Observe(seconds_of(control_.clock().now() - fetch.began));
    if (fetch.error) {
        spdlog::debug("request {:016x}: {} KV blocks fetched, the rest is computed: {}", base::raw(request.request),
                      blocks, base::log_safe(fetch.error->message));
    }
    if (blocks == 0) {
        return control_.loaded(
            request,
            tl::unexpected(fetch.error.value_or(base::Error{ErrorCode::cancelled, "computing was there before it"})));
    }
    control_.loaded(request, fetch.end * control_.cache().options().block_tokens);
}

void KvFetcher::closing(Sequence& sequence) {
    const auto at = fetches_.find(sequence.request.key);
    if (at == fetches_.end()) { return; }
    for (Run& run : at->second.runs) {
        if (!run.is_over) { port_.abort(run.key, base::Error{ErrorCode::cancelled, "the request has ended"}); }
        stranded_.emplace(run.key, std::move(run.hold));
    }
    fetches_.erase(at);
    instruments_->ended(base::Error{ErrorCode::cancelled, ""}, 0);
}

}  // namespace worker
