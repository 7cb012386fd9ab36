#include "gateway/cache/cache_metrics.h"

#include <algorithm>
#include <vector>

namespace gateway {
namespace {

std::string lower(std::string_view word) {
    std::string text(word);
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
}

const std::vector<double>& similarity_edges() {
    static const std::vector<double> edges = {.5, .6, .7, .75, .8, .85, .9, .925, .95, .96, .97, .98, .99, 1};
    return edges;
}

}  // namespace

CacheMetrics::CacheMetrics(base::Metrics& metrics)
    : metrics_(metrics),
      entries_(metrics.gauge("sluice_gateway_cache_entries", "Answers kept for equal requests")),
      bytes_(metrics.gauge("sluice_gateway_cache_bytes", "Memory of the answers kept for equal requests")),
      evicted_(metrics.counter("sluice_gateway_cache_evicted_total", "Answers that had to make room")),
      waiters_(metrics.gauge("sluice_gateway_cache_waiters", "Requests that wait for another one's run of the model")),
      promoted_(metrics.counter("sluice_gateway_cache_promoted_total",
                                "Runs that were begun anew for those who waited for one that failed")),
      purged_(metrics.counter("sluice_gateway_cache_purged_total", "Answers that operators removed")) {}

void CacheMetrics::decided(const CacheAsk& ask, double saved_s) {
    const std::string model = ask.model;
    metrics_
        .counter("sluice_gateway_cache_requests_total", "Requests by what became of them at the cache",
                 {{"model", model},
                  {"outcome", lower(ask.word())},
                  {"kind", ask.kind.empty() ? "none" : std::string(ask.kind)}})
        .Increment();
    if (ask.outcome == CacheOutcome::bypass) {
        metrics_
            .counter("sluice_gateway_cache_bypassed_total", "Requests that passed the cache by, and why",
                     {{"model", model}, {"reason", std::string(ask.refused)}})
            .Increment();
    }
    if (ask.similarity) {
        metrics_
            .histogram("sluice_gateway_cache_similarity_ratio",
                       "How alike the question of an answer served by similarity was", similarity_edges(),
                       {{"model", model}})
            .Observe(*ask.similarity);
    }
    if (!ask.is_served()) { return; }
    saved(model, ask.saved_prompt_tokens, ask.saved_completion_tokens, saved_s);
}

void CacheMetrics::saved(const std::string& model, std::uint64_t prompt_tokens, std::uint64_t completion_tokens,
                         double seconds) {
    const auto tokens = [&](const char* kind, std::uint64_t count) {
        metrics_
            .counter("sluice_gateway_cache_saved_tokens_total", "Tokens of answers that no model computed again",
                     {{"model", model}, {"kind", kind}})
            .Increment(static_cast<double>(count));
    };
    tokens("prompt", prompt_tokens);
    tokens("completion", completion_tokens);
    metrics_
        .counter("sluice_gateway_cache_saved_seconds_total",
                 "Time that the model once took for answers that were served again", {{"model", model}})
        .Increment(seconds);
}

void CacheMetrics::stored(std::string_view outcome) {
    metrics_
        .counter("sluice_gateway_cache_stored_total", "Answers of the model by what became of them at the cache",
                 {{"outcome", std::string(outcome)}})
        .Increment();
}

void CacheMetrics::shadow(std::string_view outcome) {
    metrics_
        .counter("sluice_gateway_cache_shadows_total", "Runs that compare an answer served by similarity",
                 {{"outcome", std::string(outcome)}})
        .Increment();
}

void CacheMetrics::lookup_skipped(std::string_view reason) {
    metrics_
        .counter("sluice_gateway_cache_lookups_skipped_total",
                 "Requests that did not wait for the search of similar questions", {{"reason", std::string(reason)}})
        .Increment();
}

void CacheMetrics::vector(std::string_view outcome) {
    metrics_
        .counter("sluice_gateway_cache_vectors_total", "Questions whose vector was asked of an encoder of the cluster",
                 {{"outcome", std::string(outcome)}})
        .Increment();
}

void CacheMetrics::relief(const std::string& model, double relief) {
    metrics_
        .gauge("sluice_gateway_cache_relief_ratio",
               "How far the cache's bounds give way because a model's workers have too much to do", {{"model", model}})
        .Set(relief);
}

void CacheMetrics::relieved(const std::string& model, std::string_view kind) {
    metrics_
        .counter("sluice_gateway_cache_relieved_total",
                 "Answers from the cache that would not have been served with less load",
                 {{"model", model}, {"kind", std::string(kind)}})
        .Increment();
}

void CacheMetrics::raise(prometheus::Counter& counter, std::uint64_t to) {
    const auto target = static_cast<double>(to);
    if (target > counter.Value()) { counter.Increment(target - counter.Value()); }
}

void CacheMetrics::standing(std::size_t entries, std::size_t bytes, std::uint64_t evicted, std::size_t waiters) {
    entries_.Set(static_cast<double>(entries));
    bytes_.Set(static_cast<double>(bytes));
    waiters_.Set(static_cast<double>(waiters));
    raise(evicted_, evicted);
}

void CacheMetrics::store(std::uint64_t written, std::uint64_t lost, bool is_well) {
    raise(metrics_.counter("sluice_gateway_cache_store_changes_total", "Changes of the cache's store on disk",
                           {{"outcome", "written"}}),
          written);
    raise(metrics_.counter("sluice_gateway_cache_store_changes_total", "Changes of the cache's store on disk",
                           {{"outcome", "lost"}}),
          lost);
    metrics_.gauge("sluice_gateway_cache_store_up", "1 while the cache's store on disk takes changes")
        .Set(is_well ? 1 : 0);
}

void CacheMetrics::shared_lookup(std::string_view outcome) {
    metrics_
        .counter("sluice_gateway_cache_shared_lookups_total", "Looks at the answers that gateways share",
                 {{"outcome", std::string(outcome)}})
        .Increment();
}

void CacheMetrics::shared(const caching::SharedAnswers& shared) {
    const auto counts = shared.counts();
    const auto documents = [&](const char* outcome, std::uint64_t count) {
        raise(metrics_.counter("sluice_gateway_cache_shared_answers_total",
                               "Answers for the server that gateways share", {{"outcome", outcome}}),
              count);
    };
    documents("written", counts.written);
    documents("lost", counts.lost);
    documents("refused", counts.refused);
    metrics_.gauge("sluice_gateway_cache_shared_up", "1 while the server that gateways share answers on is there")
        .Set(shared.is_up() ? 1 : 0);
    metrics_
        .gauge("sluice_gateway_cache_shared_current",
               "1 while all that was purged anywhere is known here; else no answer that is kept is served")
        .Set(shared.is_current() ? 1 : 0);
}

void CacheMetrics::category(const CategoryStanding& standing) {
    const std::string& name = standing.name;
    metrics_
        .gauge("sluice_gateway_cache_wrong_bound_ratio",
               "Upper bound, at every moment with 95 %, of wrong answers among those served by similarity",
               {{"category", name}})
        .Set(standing.wrong_at_most);
    metrics_
        .gauge("sluice_gateway_cache_category_open", "1 while a category of questions may be answered by similarity",
               {{"category", name}})
        .Set(standing.is_exact_only ? 0 : 1);
    metrics_
        .gauge("sluice_gateway_cache_category_deficit",
               "1 while the search of similar questions costs a category more than it brings, and is seldom done",
               {{"category", name}})
        .Set(standing.is_in_deficit ? 1 : 0);
    const auto seconds = [&](const char* side, double sum) {
        metrics_
            .gauge("sluice_gateway_cache_category_seconds",
                   "Model time that hits by similarity saved, and what their search and generating again took",
                   {{"category", name}, {"side", side}})
            .Set(sum);
    };
    seconds("earned", standing.earned_s);
    seconds("spent", standing.spent_s);
}

void CacheMetrics::common(std::size_t answers, std::size_t waiting) {
    metrics_
        .gauge("sluice_gateway_cache_common_answers", "Answers that several tenants got alike, and anybody may have")
        .Set(static_cast<double>(answers));
    metrics_
        .gauge("sluice_gateway_cache_common_waiting",
               "Requests whose answer fewer tenants got than it takes for anybody to have it")
        .Set(static_cast<double>(waiting));
}

void CacheMetrics::common_served(const std::string& model) {
    metrics_
        .counter("sluice_gateway_cache_common_served_total",
                 "Runs of the model that were spared by an answer which several other tenants had got alike",
                 {{"model", model}})
        .Increment();
}

}  // namespace gateway
