#include "worker/kv_fetcher.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace worker {

using base::ErrorCode;

namespace {

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
             {"complete", "partial", "not_found", "busy", "timeout", "peer_lost", "cancelled", "refused"}) {
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
    if (!sequence.request.kv_source || sequence.state != SequenceState::running) {
        return;
    }  // or something loads already
    const KvSource source = *std::exchange(sequence.request.kv_source, std::nullopt);
    if (options_.fetches_max == 0 || source.worker.incarnation == incarnation_ || sequence.wants_prompt_scores()) {
        return;
    }
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const auto tokens_max = static_cast<std::uint32_t>(sequence.tokens.size()) - 1;
    Fetch fetch;
    fetch.source = source.worker;
    fetch.first = fetch.next = sequence.computed_tokens / block_tokens;
    fetch.end = std::min(std::min(source.kv_tokens, tokens_max) / block_tokens,
                         static_cast<std::uint32_t>(sequence.chain.size()));
    if (fetch.first >= fetch.end) { return; }
    fetch.began = control_.clock().now();
    fetch.deadline = fetch.began + options_.fetch_timeout;
    if (source.give_up) { fetch.deadline = std::min(fetch.deadline, *source.give_up); }
    if (sequence.request.deadline) { fetch.deadline = std::min(fetch.deadline, *sequence.request.deadline); }
    ask_for_more(fetch, sequence);
    if (fetch.runs.empty()) {
        instruments_->ended(fetch.error, 0);
        return;
    }
    fetches_.insert_or_assign(sequence.request.key, std::move(fetch));
    control_.make_loading(sequence);
}

/// Keeps up to kRunsAtOnce runs under way. When none more can begin here now, those that are under way go on; without
/// any the fetch ends where it stands.
void KvFetcher::ask_for_more(Fetch& fetch, const Sequence& sequence) {
    while (fetch.next < fetch.end && fetch.runs.size() < kRunsAtOnce) {
        Run run;
        run.first = fetch.next;
        run.count = std::min(fetch.end - fetch.next, static_cast<std::uint32_t>(kv_transfer::kFetchBlocksMax));
        run.key = {sequence.request.key.request, sequence.request.key.epoch, fetch.source.incarnation, incarnation_,
                   next_run_};
        const auto asked = port_.fetch({.key = run.key,
                                        .kv_address = fetch.source.kv_address,
                                        .hashes = std::span(sequence.chain).subspan(run.first, run.count),
                                        .blocks = sequence.kv->blocks().subspan(run.first, run.count),
                                        .answer_timeout = options_.fetch_answer,
                                        .lease = options_.kv_lease,
                                        .deadline = fetch.deadline});
        if (!asked) {
            if (fetch.runs.empty()) { cut(fetch, fetch.next, asked.error()); }
            return;
        }
        run.hold = control_.cache().hold(*sequence.kv, run.first, run.count);
        fetch.next += run.count;
        if (++next_run_ == 0) { next_run_ = 1; }
        fetch.runs.push_back(std::move(run));
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
            CHECK(false, "fetch " << kv_transfer::to_string(event.key) << " asks for room");
            return;
        case Kind::completed: {
            CHECK(!event.is_lossy, "fetch " << kv_transfer::to_string(event.key));
            run->is_over = true;
            const std::uint32_t end = run->first + event.kv_tokens / control_.cache().options().block_tokens;
            if (end < run->first + run->count) {
                cut(fetch, end, base::Error{ErrorCode::not_found, "the other worker has no more of it"});
            }
            return;
        }
        case Kind::failed:
            run->is_over = true;
            cut(fetch, run->first, event.error.value_or(base::Error{ErrorCode::internal, "no reason was given"}));
            return;
        case Kind::released:
            fetch.runs.erase(run);
            break;
    }
    const Sequence* sequence = control_.find(request);
    CHECK(sequence != nullptr && sequence->kv, "a fetch without its sequence");
    ask_for_more(fetch, *sequence);
    if (fetch.runs.empty()) { finish(request); }
}

void KvFetcher::finish(RequestKey request) {
    auto node = fetches_.extract(request);
    const Fetch& fetch = node.mapped();
    const std::uint32_t blocks = fetch.end - fetch.first;
    instruments_->ended(fetch.error, blocks);
    instruments_->duration.Observe(std::chrono::duration<double>(control_.clock().now() - fetch.began).count());
    if (fetch.error) {
        spdlog::debug("request {:016x}: {} KV blocks fetched, the rest is computed: {}", base::raw(request.request),
                      blocks, base::log_safe(fetch.error->message));
    }
    if (blocks == 0) { return control_.loaded(request, tl::unexpected(*fetch.error)); }
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
