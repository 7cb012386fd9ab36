#include "worker/step_reporter.h"

#include <algorithm>

namespace worker {
namespace {

/// Changes of the prefix index that may gather while the scheduler takes none. Telling it everything anew costs the
/// step thread less than sorting more of them.
constexpr std::size_t kChangesMax = 1 << 16;

/// Bucket edges of tokens in a step: of one stream up to the largest chunk that is sensible.
const std::vector<double>& token_edges() {
    static const std::vector<double> edges = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    return edges;
}

/// Prompt tokens that a step has to compute before the sequence can be sampled, as far as one knows.
std::uint32_t uncached_tokens(const Sequence& sequence) {
    const bool waits = sequence.state == SequenceState::waiting;
    const std::uint32_t comes = sequence.from_end ? sequence.from_end->end - sequence.from_end->until : 0;
    return sequence.tokens_left() - (waits ? std::max(sequence.cached_believed, sequence.awaited_tokens) : comes);
}

}  // namespace

struct StepReporter::Instruments {
    Instruments(base::Metrics& metrics, const std::string& model, const std::string& role, const std::string& worker)
        : usage(metrics.gauge("sluice_worker_kv_cache_usage_ratio", "Share of KV blocks that are in use",
                              {{"model", model}, {"worker", worker}})),
          blocks_free(blocks(metrics, worker, "free")),
          blocks_used(blocks(metrics, worker, "used")),
          blocks_cached(blocks(metrics, worker, "cached")),
          blocks_pinned(blocks(metrics, worker, "pinned")),
          blocks_stranded(blocks(metrics, worker, "stranded")),
          free_runs(metrics.gauge("sluice_worker_kv_free_runs",
                                  "Contiguous runs that free KV blocks lie in: 1 where nothing is fragmented",
                                  {{"worker", worker}})),
          blocks_capacity(metrics.gauge("sluice_worker_kv_blocks_capacity", "KV blocks in all", {{"worker", worker}})),
          prompt_tokens(
              metrics.counter("sluice_worker_prompt_tokens_total", "Prompt tokens computed", {{"model", model}})),
          generation_tokens(
              metrics.counter("sluice_worker_generation_tokens_total", "Tokens given", {{"model", model}})),
          forced_tokens(metrics.counter("sluice_worker_forced_tokens_total",
                                        "Tokens given without a step of their own, since a grammar left no choice",
                                        {{"model", model}})),
          preempted_by_growth(preemptions(metrics, model, "growth")),
          preempted_by_priority(preemptions(metrics, model, "priority")),
          prefix_queries(metrics.counter("sluice_worker_prefix_query_tokens_total",
                                         "Prompt tokens looked up in the prefix index", {{"model", model}})),
          prefix_hits(metrics.counter("sluice_worker_prefix_hit_tokens_total",
                                      "Prompt tokens found in the prefix index", {{"model", model}})),
          step_prefill(step(metrics, role == role_name(Role::encode) ? "encode" : "prefill")),
          step_decode(step(metrics, "decode")),
          step_mixed(step(metrics, "mixed")),
          idle_prefill(idle(metrics, role == role_name(Role::encode) ? "encode" : "prefill")),
          idle_decode(idle(metrics, "decode")),
          idle_mixed(idle(metrics, "mixed")),
          tokens_prefill(tokens(metrics, role == role_name(Role::encode) ? "encode" : "prefill")),
          tokens_decode(tokens(metrics, "decode")),
          tokens_mixed(tokens(metrics, "mixed")) {}

    static prometheus::Counter& preemptions(base::Metrics& metrics, const std::string& model, const char* cause) {
        return metrics.counter("sluice_worker_preemptions_total",
                               "Sequences that lost their KV memory to others, which grew or have a higher priority",
                               {{"model", model}, {"cause", cause}});
    }
    static prometheus::Gauge& blocks(base::Metrics& metrics, const std::string& worker, const char* state) {
        return metrics.gauge("sluice_worker_kv_blocks", "KV blocks by state", {{"state", state}, {"worker", worker}});
    }
    static prometheus::Histogram& step(base::Metrics& metrics, const char* phase) {
        return metrics.histogram("sluice_worker_step_duration_seconds", "Duration of one forward pass",
                                 base::tpot_edges(), {{"phase", phase}});
    }
    static prometheus::Histogram& tokens(base::Metrics& metrics, const char* phase) {
        return metrics.histogram("sluice_worker_step_tokens", "Tokens computed in one forward pass", token_edges(),
                                 {{"phase", phase}});
    }
    static prometheus::Histogram& idle(base::Metrics& metrics, const char* phase) {
        return metrics.histogram(
            "sluice_worker_engine_idle_seconds",
            "How long the engine stood still before a step that followed the one before it at once",
            base::decision_edges(), {{"phase", phase}});
    }

    prometheus::Gauge& usage;
    prometheus::Gauge &blocks_free, &blocks_used, &blocks_cached, &blocks_pinned, &blocks_stranded, &free_runs,
        &blocks_capacity;
    prometheus::Counter &prompt_tokens, &generation_tokens, &forced_tokens, &preempted_by_growth,
        &preempted_by_priority;
    prometheus::Counter &prefix_queries, &prefix_hits;
    prometheus::Histogram &step_prefill, &step_decode, &step_mixed;
    prometheus::Histogram &idle_prefill, &idle_decode, &idle_mixed;
    prometheus::Histogram &tokens_prefill, &tokens_decode, &tokens_mixed;
};

/// By which autoscalers and boards tell roles apart: a worker that turns takes its former role's along.
struct StepReporter::OfRole {
    OfRole(base::Metrics& metrics, const base::Metrics::Labels& labels)
        : series(metrics),
          waiting(
              series.gauge("sluice_worker_requests_waiting", "Requests accepted that have no KV memory yet", labels)),
          running(series.gauge("sluice_worker_requests_running", "Requests that have KV memory", labels)) {}
    base::SeriesLease series;
    prometheus::Gauge& waiting;
    prometheus::Gauge& running;
};

StepReporter::StepReporter(kv_cache::KvCache& pool, ReportBoard& board, base::Metrics& metrics, const Labels& labels)
    : pool_(pool),
      board_(board),
      metrics_(metrics),
      labels_(labels),
      instruments_(
          std::make_unique<Instruments>(metrics, labels.model, std::string(role_name(labels.role)), labels.worker)) {
    known_.add(pool);
}

StepReporter::~StepReporter() = default;

void StepReporter::note_step(const std::vector<StepShare>& shares, base::Duration duration,
                             std::optional<base::Duration> idle_before) {
    sluice::proto::StepSample sample;
    for (const StepShare& share : shares) {
        const std::uint64_t before = share.tokens_before;
        const std::uint64_t tokens = share.tokens;
        if (share.samples) { instruments_->generation_tokens.Increment(); }
        if (share.is_decode()) {
            sample.set_decode_sequences(sample.decode_sequences() + 1);
            sample.set_decode_context_tokens(sample.decode_context_tokens() + before);
        } else {
            sample.set_prefill_tokens(sample.prefill_tokens() + share.tokens);
            sample.set_prefill_context_tokens(sample.prefill_context_tokens() + tokens * before +
                                              tokens * (tokens - 1) / 2);
        }
    }
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    sample.set_duration_us(static_cast<std::uint32_t>(us));
    board_.add_step(sample);
    instruments_->prompt_tokens.Increment(sample.prefill_tokens());
    const auto of_phase = [&](prometheus::Histogram& prefill, prometheus::Histogram& decode,
                              prometheus::Histogram& mixed) -> prometheus::Histogram& {
        return sample.decode_sequences() == 0 ? prefill : sample.prefill_tokens() == 0 ? decode : mixed;
    };
    of_phase(instruments_->step_prefill, instruments_->step_decode, instruments_->step_mixed)
        .Observe(std::chrono::duration<double>(duration).count());
    of_phase(instruments_->tokens_prefill, instruments_->tokens_decode, instruments_->tokens_mixed)
        .Observe(sample.prefill_tokens() + sample.decode_sequences());
    if (!idle_before) { return; }
    of_phase(instruments_->idle_prefill, instruments_->idle_decode, instruments_->idle_mixed)
        .Observe(std::max(0.0, std::chrono::duration<double>(*idle_before).count()));
}

void StepReporter::note_forced(std::uint32_t tokens) {
    instruments_->generation_tokens.Increment(tokens);
    instruments_->forced_tokens.Increment(tokens);
}

void StepReporter::note_prefix(std::uint32_t tokens_queried, std::uint32_t tokens_hit) {
    instruments_->prefix_queries.Increment(tokens_queried);
    instruments_->prefix_hits.Increment(tokens_hit);
}

void StepReporter::note_preemption(Preemption cause) {
    (cause == Preemption::growth ? instruments_->preempted_by_growth : instruments_->preempted_by_priority).Increment();
}

bool StepReporter::publish_blocks() {
    switch (board_.take_wish()) {
        case ReportBoard::Wish::nothing:
            known_.forget_events();
            return false;
        case ReportBoard::Wish::later:
            if (known_.events_pending() > kChangesMax) { board_.want_snapshot(); }
            return false;
        case ReportBoard::Wish::snapshot:
            known_.begin_snapshot();
            break;
        case ReportBoard::Wish::changes:
            break;
    }
    if (const auto told = known_.take_events()) { board_.add_block_events(told->events, told->below); }
    return known_.snapshot_unfinished();
}

bool StepReporter::publish(std::span<const std::unique_ptr<Sequence>> sequences, base::TimePoint now) {
    sluice::proto::WorkerLoad load;
    for (const auto& sequence : sequences) {
        const bool is_queued =
            sequence->state == SequenceState::waiting || sequence->state == SequenceState::awaiting_kv;
        if (is_queued) {
            load.set_requests_waiting(load.requests_waiting() + 1);
        } else {
            load.set_requests_running(load.requests_running() + 1);
        }
        if (sequence->state == SequenceState::awaiting_kv && sequence->lacks_kv_only) {
            load.set_kv_awaited(load.kv_awaited() + 1);
        }
        if (sequence->state == SequenceState::running && sequence->decodes() && !sequence->encodes()) {
            load.set_decode_sequences(load.decode_sequences() + 1);
            load.set_context_tokens(load.context_tokens() + sequence->tokens.size());
        } else if (sequence->state == SequenceState::running || sequence->state == SequenceState::waiting) {
            load.set_prefill_tokens_queued(load.prefill_tokens_queued() + uncached_tokens(*sequence));
        }
    }
    const kv_cache::BlockCounts counts = pool_.counts();
    load.set_blocks_free(counts.free);
    load.set_blocks_used(counts.used);
    load.set_blocks_cached(counts.cached);
    load.set_blocks_pinned(counts.pinned);
    load.set_blocks_stranded(counts.stranded);
    board_.set_load(load);
    const bool more = publish_blocks();
    board_.note_progress(now);

    const Role role = board_.role().value_or(labels_.role);
    if (of_role_ == nullptr || role != labels_.role) {
        labels_.role = role;
        of_role_ = std::make_unique<OfRole>(metrics_, base::Metrics::Labels{{"model", labels_.model},
                                                                            {"role", std::string(role_name(role))},
                                                                            {"worker", labels_.worker}});
    }
    const std::uint32_t blocks_total = pool_.options().blocks_total;
    of_role_->waiting.Set(load.requests_waiting());
    of_role_->running.Set(load.requests_running());
    instruments_->blocks_capacity.Set(blocks_total);
    instruments_->blocks_free.Set(counts.free);
    instruments_->blocks_used.Set(counts.used);
    instruments_->blocks_cached.Set(counts.cached);
    instruments_->blocks_pinned.Set(counts.pinned);
    instruments_->blocks_stranded.Set(counts.stranded);
    instruments_->free_runs.Set(static_cast<double>(pool_.pool().free_runs().size()));
    instruments_->usage.Set(
        blocks_total == 0 ? 0.0 : static_cast<double>(counts.used + counts.pinned + counts.stranded) / blocks_total);
    return more;
}

}  // namespace worker
