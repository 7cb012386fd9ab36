#include "gateway/explain/cause.h"

#include <algorithm>

namespace gateway {
namespace {

struct Text {
    std::string_view name;
    std::string_view meaning;
    std::string_view help;
};

constexpr std::array<Text, kCauses> kTexts = {{
    {"queue_prefill", "the prompt waited on its worker, for memory or behind other prompts",
     "more prefill workers, or more cores for them; refusing by prediction (scheduler.admit_by_prediction)"},
    {"prefill", "computing the prompt took long",
     "faster prefill workers or more cores for them, shorter prompts, prompts with a common beginning (prefix hits)"},
    {"handoff", "KV was long on its way from another worker",
     "a faster or less shared way between the workers; mixed workers, which hand nothing over"},
    {"queue_decode", "the stream waited on its decode worker, for room or for a place in the batch",
     "more decode workers, more KV memory (engine.kv_pool_bytes), a larger batch (worker.batch_sequences_max)"},
    {"decode_batch", "decode steps took long: the batch was large, its context long, or the worker slow",
     "more decode workers, or more cores for them; refusing by prediction (scheduler.admit_by_prediction)"},
    {"chunk_interference", "prompts and streams of the same worker stretched each other's steps",
     "prefill and decode on separate workers; TPOT targets, by which steps are filled (docs/slo.md); a smaller "
     "worker.chunk_tokens_max where there are none"},
    {"preempted", "the sequence lost its KV memory to others and was computed again",
     "more KV memory (engine.kv_pool_bytes), a smaller worker.batch_sequences_max, more decode workers"},
    {"recomputed", "KV of a hand-off did not come and was computed again on the decode worker",
     "the log of both workers says why hand-offs fail; sluice_kv_fallbacks_total counts them"},
    {"worker_lost", "a worker failed, or gave the sequence back, and it was placed again elsewhere",
     "the gateway's log names worker and error; sluice_gateway_retries_total counts them"},
    {"gateway", "time went by in the gateway, at the scheduler, or on the way between gateway and worker",
     "more cores for the gateway, more gateway.text_threads; a worker that takes nothing shows here too"},
    {"client", "the client left, or took its answer too slowly", "nothing here: the client's doing, which is no miss"},
    {"refused", "it was refused: queues were full, no worker was there, or lateness was predicted",
     "more workers; clients that obey Retry-After"},
    {"infeasible", "even an idle worker would have been late", "a weaker target, a shorter prompt, faster workers"},
}};

}  // namespace

std::string_view name_of(Cause cause) {
    return kTexts[index_of(cause)].name;
}

std::string_view meaning_of(Cause cause) {
    return kTexts[index_of(cause)].meaning;
}

std::string_view help_for(Cause cause) {
    return kTexts[index_of(cause)].help;
}

void Shares::add(const Shares& more) {
    for (std::size_t i = 0; i < kCauses; ++i) {
        spent[i] += more.spent[i];
    }
    alone += more.alone;
}

Cause cause_of(const Shares& shares, base::Duration target) {
    if (target > base::Duration::zero() && shares.alone > target) { return Cause::infeasible; }
    std::array<base::Duration, kCauses> avoidable = shares.spent;
    base::Duration needed = shares.alone;
    for (const Cause own : {Cause::prefill, Cause::decode_batch}) {
        const base::Duration part = std::min(needed, avoidable[index_of(own)]);
        avoidable[index_of(own)] -= part;
        needed -= part;
    }
    const auto most = std::max_element(avoidable.begin(), avoidable.end());  // the first of equal ones
    return static_cast<Cause>(most - avoidable.begin());
}

}  // namespace gateway
