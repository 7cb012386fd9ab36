// Sampling: one block per row of logits. Sums run in the order of engine/sampler.cpp: weights of 256 neighbouring
// tokens by one thread, the sums of these chunks by thread 0; ranked weights by thread 0.
#include "engine/kernels/cuda/sampling.cuh"

namespace engine::cuda {
namespace {

constexpr int kWarps = kSampleThreads / kWarp;
constexpr int kVocabularyMax = 1 << 20;

struct Shared {
    RankKey ranked[kRankedTokensMax];  // best first, after take_best()
    double weights[kRankedTokensMax];
    RankKey keys[kWarps];
    int tokens[kWarps];
    unsigned histogram[256];
    unsigned warp_counts[kWarps];
    unsigned prefix;
    unsigned remaining;
    unsigned ties;
    unsigned taken;
    double sum;
    double before;
    int begin;
    int token;
};

/// Shared memory of a block, then the sums of the chunks.
struct Workspace {
    Shared* shared;
    double* chunk_sums;  // [ceil(vocabulary / kSumChunk)]
};

__device__ __forceinline__ double token_weight(float logit, double logit_max, double scale) {
    return exact_exp(__dmul_rn(__dsub_rn(static_cast<double>(logit), logit_max), scale));
}

/// Sum of e^((logit - logit_max) * scale) over the row, in every thread; weights below `weight_min` count as 0. Leaves
/// the chunks' sums.
__device__ double weigh(const Workspace& space, const float* logits, int vocabulary, double logit_max, double scale,
                        double weight_min) {
    const int chunks = ceil_div(vocabulary, kSumChunk);
    for (int chunk = static_cast<int>(threadIdx.x); chunk < chunks; chunk += kSampleThreads) {
        const int end = min((chunk + 1) * kSumChunk, vocabulary);
        double sum = 0;
#pragma unroll 4
        for (int i = chunk * kSumChunk; i < end; ++i) {
            const double weight = token_weight(logits[i], logit_max, scale);
            sum = __dadd_rn(sum, weight < weight_min ? 0.0 : weight);
        }
        space.chunk_sums[chunk] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            sum = __dadd_rn(sum, space.chunk_sums[chunk]);
        }
        space.shared->sum = sum;
    }
    __syncthreads();
    const double sum = space.shared->sum;
    __syncthreads();
    return sum;
}

/// The token in whose share of [0, sum) `target` lies, after weigh() with the same arguments; in every thread.
__device__ int pick(const Workspace& space, const float* logits, int vocabulary, double logit_max, double scale,
                    double weight_min, double target) {
    Shared& shared = *space.shared;
    if (threadIdx.x == 0) {
        double before = 0;
        int begin = 0;
        while (begin + kSumChunk < vocabulary) {
            const double next = __dadd_rn(before, space.chunk_sums[begin / kSumChunk]);
            if (target < next) { break; }
            before = next;
            begin += kSumChunk;
        }
        shared.before = before;
        shared.begin = begin;
    }
    __syncthreads();
    const int begin = shared.begin;
    const int count = min(kSumChunk, vocabulary - begin);
    const auto weight_at = [&](int token) {
        const double weight = token_weight(logits[token], logit_max, scale);
        return weight < weight_min ? 0.0 : weight;
    };
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kSampleThreads) {
        shared.weights[i] = weight_at(begin + i);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        double before = shared.before;
        int last = -1;
        for (int i = 0; i < count; ++i) {
            const double weight = shared.weights[i];
            if (weight == 0) { continue; }
            last = begin + i;
            before = __dadd_rn(before, weight);
            if (target < before) { break; }
        }
        if (last < 0) {  // rounding left the target beyond the end, and the last chunk is empty
            for (last = begin; last > 0 && weight_at(last - 1) == 0; --last) {}
            last = last > 0 ? last - 1 : 0;
        }
        shared.token = last;
    }
    __syncthreads();
    const int token = shared.token;
    __syncthreads();
    return token;
}

/// Sorts ranked[0, size) ascending; size is a power of two.
__device__ void sort_ranked(RankKey* ranked, int size) {
    for (int width = 2; width <= size; width *= 2) {
        for (int distance = width / 2; distance > 0; distance /= 2) {
            for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += kSampleThreads) {
                const int low = i / distance * distance * 2 + i % distance;
                const int high = low + distance;
                const bool ascending = (low & width) == 0;
                const RankKey a = ranked[low];
                const RankKey b = ranked[high];
                if ((a > b) == ascending) {
                    ranked[low] = b;
                    ranked[high] = a;
                }
            }
            __syncthreads();
        }
    }
}

/// Leaves the `count` best tokens (at most kRankedTokensMax and the vocabulary, at least 1) in shared.ranked, best
/// first. Radix selection over the ranks of the logits, eight bits at a time; of equal logits the lower tokens.
__device__ void take_best(const Workspace& space, const float* logits, int vocabulary, int count) {
    Shared& shared = *space.shared;
    const unsigned lane = threadIdx.x % kWarp;
    if (threadIdx.x == 0) {
        shared.prefix = 0;
        shared.remaining = static_cast<unsigned>(count);
        shared.taken = 0;
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = static_cast<int>(threadIdx.x); i < 256; i += kSampleThreads) {
            shared.histogram[i] = 0;
        }
        __syncthreads();
        const unsigned long long prefix = shared.prefix;
        for (int base = 0; base < vocabulary; base += kSampleThreads) {
            const int i = base + static_cast<int>(threadIdx.x);
            const unsigned rank = i < vocabulary ? rank_of(logits[i]) : 0u;
            const bool counts = i < vocabulary && (static_cast<unsigned long long>(rank) >> (shift + 8)) == prefix;
            const unsigned active = __ballot_sync(0xffffffffu, counts);
            if (counts) {  // one addition per bin and warp
                const unsigned bin = rank >> shift & 255u;
                const unsigned peers = __match_any_sync(active, bin);
                if (lane == static_cast<unsigned>(__ffs(static_cast<int>(peers)) - 1)) {
                    atomicAdd(&shared.histogram[bin], static_cast<unsigned>(__popc(peers)));
                }
            }
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            unsigned bin = 0;
            while (shared.histogram[bin] < shared.remaining) {
                shared.remaining -= shared.histogram[bin];
                ++bin;
            }
            shared.prefix = shared.prefix << 8 | bin;
            shared.ties = shared.histogram[bin];
        }
        __syncthreads();
    }
    const unsigned threshold = shared.prefix;     // rank of the last token that is taken
    const unsigned remaining = shared.remaining;  // tokens of this very rank that are taken
    const bool all_ties = shared.ties == remaining;
    for (int i = static_cast<int>(threadIdx.x); i < vocabulary; i += kSampleThreads) {
        const unsigned rank = rank_of(logits[i]);
        if (rank < threshold || (all_ties && rank == threshold)) {
            shared.ranked[atomicAdd(&shared.taken, 1u)] = static_cast<RankKey>(rank) << 32 | static_cast<unsigned>(i);
        }
    }
    __syncthreads();
    if (!all_ties) {  // each thread counts those of a run of tokens; the lowest `remaining` are taken
        const int run = ceil_div(vocabulary, kSampleThreads);
        const int begin = min(static_cast<int>(threadIdx.x) * run, vocabulary);
        const int end = min(begin + run, vocabulary);
        unsigned mine = 0;
        for (int i = begin; i < end; ++i) {
            mine += rank_of(logits[i]) == threshold ? 1u : 0u;
        }
        unsigned through = mine;  // sum over the threads of the warp up to this one
#pragma unroll
        for (int distance = 1; distance < kWarp; distance *= 2) {
            const unsigned other = __shfl_up_sync(0xffffffffu, through, distance);
            if (lane >= static_cast<unsigned>(distance)) { through += other; }
        }
        if (lane == kWarp - 1) { shared.warp_counts[threadIdx.x / kWarp] = through; }
        __syncthreads();
        unsigned at = through - mine;
        for (unsigned w = 0; w < threadIdx.x / kWarp; ++w) {
            at += shared.warp_counts[w];
        }
        const unsigned first = static_cast<unsigned>(count) - remaining;
        for (int i = begin; i < end && at < remaining; ++i) {
            if (rank_of(logits[i]) == threshold) {
                shared.ranked[first + at] = static_cast<RankKey>(threshold) << 32 | static_cast<unsigned>(i);
                ++at;
            }
        }
        __syncthreads();
    }
    int size = 1;
    while (size < count) {
        size *= 2;
    }
    for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kSampleThreads) {
        shared.ranked[i] = kNoKey;
    }
    __syncthreads();
    sort_ranked(shared.ranked, size);
}

/// Draws where top_k or top_p rank the tokens. Error: needs_host where more would have to be ranked than there is room
/// for. The token in every thread.
__device__ SampleStatus draw_ranked(const Workspace& space, const float* logits, int vocabulary, double logit_max,
                                    const SamplingRow& row, double uniform, int& token) {
    Shared& shared = *space.shared;
    const double scale = __ddiv_rn(1.0, static_cast<double>(row.temperature));
    const bool top_k = row.top_k > 0 && row.top_k < static_cast<unsigned>(vocabulary);
    if (top_k && row.top_k > static_cast<unsigned>(kRankedTokensMax)) { return SampleStatus::needs_host; }
    double sum_all = 0;
    if (!top_k) { sum_all = weigh(space, logits, vocabulary, logit_max, scale, 0.0); }
    const int count = top_k ? static_cast<int>(row.top_k) : min(vocabulary, kRankedTokensMax);
    take_best(space, logits, vocabulary, count);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kSampleThreads) {
        shared.weights[i] = token_weight(logit_of(shared.ranked[i]), logit_max, scale);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (top_k) {
            for (int i = 0; i < count; ++i) {
                sum_all = __dadd_rn(sum_all, shared.weights[i]);
            }
        }
        const double mass = __dmul_rn(static_cast<double>(row.top_p), sum_all);
        int kept = 0;
        double sum = 0;
        bool complete = top_k || count == vocabulary;
        while (kept < count && (kept == 0 || row.top_p == 1 || sum < mass)) {
            const double weight = shared.weights[kept];
            if (kept > 0 && weight < static_cast<double>(row.min_p)) { break; }
            sum = __dadd_rn(sum, weight);
            ++kept;
        }
        complete = complete || kept < count || !(sum < mass);
        const double target = __dmul_rn(uniform, sum);
        double before = 0;
        int chosen = kept - 1;
        for (int rank = 0; rank + 1 < kept; ++rank) {
            before = __dadd_rn(before, shared.weights[rank]);
            if (target < before) {
                chosen = rank;
                break;
            }
        }
        shared.token = complete ? token_of(shared.ranked[chosen]) : -1;
    }
    __syncthreads();
    token = shared.token;
    __syncthreads();
    return token < 0 ? SampleStatus::needs_host : SampleStatus::ok;
}

/// Copies the row and applies bias, penalties and masks, in this order. In `changed` afterwards, for the whole block.
__device__ void change_row(const SamplingArguments& a, const SamplingRow& row, const float* logits, float* changed) {
    for (int i = static_cast<int>(threadIdx.x); i < a.vocabulary; i += kSampleThreads) {
        changed[i] = logits[i];
    }
    __syncthreads();
    const auto is_token = [&](int token) { return token >= 0 && token < a.vocabulary; };
    for (int i = row.bias_begin + static_cast<int>(threadIdx.x); i < row.bias_end; i += kSampleThreads) {
        const LogitBias bias = a.biases[i];
        if (is_token(bias.token)) { changed[bias.token] = __fadd_rn(changed[bias.token], bias.bias); }
    }
    __syncthreads();
    for (int i = row.penalised_begin + static_cast<int>(threadIdx.x); i < row.penalised_end; i += kSampleThreads) {
        const PenalisedToken penalised = a.penalised[i];
        if (!is_token(penalised.token)) { continue; }
        float logit = changed[penalised.token];
        if (row.repetition_penalty != 1) {
            logit = logit > 0 ? __fdiv_rn(logit, row.repetition_penalty) : __fmul_rn(logit, row.repetition_penalty);
        }
        logit = __fsub_rn(logit, __fmul_rn(static_cast<float>(penalised.generated), row.frequency_penalty));
        if (penalised.generated > 0) { logit = __fsub_rn(logit, row.presence_penalty); }
        changed[penalised.token] = logit;
    }
    __syncthreads();
    for (int i = row.masked_begin + static_cast<int>(threadIdx.x); i < row.masked_end; i += kSampleThreads) {
        const int token = a.masked_tokens[i];
        if (is_token(token)) { changed[token] = -__int_as_float(0x7f800000); }
    }
    if (row.mask_row >= 0) {
        const std::uint32_t* mask =
            a.masks + static_cast<std::size_t>(row.mask_row) * static_cast<std::size_t>(ceil_div(a.vocabulary, 32));
        for (int i = static_cast<int>(threadIdx.x); i < a.vocabulary; i += kSampleThreads) {
            if ((mask[i / 32] >> (i % 32) & 1u) == 0) { changed[i] = -__int_as_float(0x7f800000); }
        }
    }
    __syncthreads();
}

__device__ SampleStatus sample_row(const SamplingArguments& a, const SamplingRow& row, const Workspace& space,
                                   int i_row, SampledRow& result) {
    Shared& shared = *space.shared;
    const int vocabulary = a.vocabulary;
    const float* logits = a.logits + static_cast<std::size_t>(row.logits_row) * vocabulary;
    RankKey original_best;
    int bad;
    find_peak<kSampleThreads>(logits, vocabulary, original_best, bad, shared.keys, shared.tokens);
    if (bad != kNoToken) {
        result.token = bad;
        return SampleStatus::bad_logit;
    }
    const bool score = row.score_target >= 0;
    if (row.top_logprobs > static_cast<unsigned>(kTopLogprobsMax)) { return SampleStatus::needs_host; }
    int token = row.score_target;
    if (!score) {
        const float* changed = logits;
        RankKey best = original_best;
        if (row.bias_begin < row.bias_end || row.penalised_begin < row.penalised_end ||
            row.masked_begin < row.masked_end || row.mask_row >= 0) {
            float* copy = a.changed + static_cast<std::size_t>(i_row) * vocabulary;
            change_row(a, row, logits, copy);
            changed = copy;
            find_peak<kSampleThreads>(changed, vocabulary, best, bad, shared.keys, shared.tokens);
            if (bad != kNoToken) {
                result.token = bad;
                return SampleStatus::bad_logit;
            }
        }
        const float peak = logit_of(best);
        token = token_of(best);
        if (row.temperature != 0 && peak != -__int_as_float(0x7f800000)) {
            const double uniform = uniform_at(row.seed, row.choice, row.position);
            const bool top_k = row.top_k > 0 && row.top_k < static_cast<unsigned>(vocabulary);
            if (top_k || row.top_p < 1) {
                const SampleStatus status =
                    draw_ranked(space, changed, vocabulary, static_cast<double>(peak), row, uniform, token);
                if (status != SampleStatus::ok) { return status; }
            } else {
                const double scale = __ddiv_rn(1.0, static_cast<double>(row.temperature));
                const double weight_min = static_cast<double>(row.min_p);
                const double sum = weigh(space, changed, vocabulary, static_cast<double>(peak), scale, weight_min);
                token = pick(space, changed, vocabulary, static_cast<double>(peak), scale, weight_min,
                             __dmul_rn(uniform, sum));
            }
        }
    }
    result.token = token;
    if (row.logprobs != 0 || score) {
        const auto logit_max = static_cast<double>(logit_of(original_best));
        const double normaliser =
            __dadd_rn(logit_max, exact_log(weigh(space, logits, vocabulary, logit_max, 1.0, 0.0)));
        const auto logprob = [&](float logit) {
            return static_cast<float>(__dsub_rn(static_cast<double>(logit), normaliser));
        };
        if (token < vocabulary) { result.logprob = logprob(logits[token]); }
        const int count = min(static_cast<int>(row.top_logprobs), vocabulary);
        if (count > 0) {
            take_best(space, logits, vocabulary, count);
            for (int i = static_cast<int>(threadIdx.x); i < count; i += kSampleThreads) {
                const std::size_t at = static_cast<std::size_t>(i_row) * kTopLogprobsMax + i;
                const int ranked = token_of(shared.ranked[i]);
                a.top_tokens[at] = ranked;
                a.top_logprobs[at] = logprob(logits[ranked]);  // not of the key: it has lost the sign of a zero
            }
            result.top_count = static_cast<std::uint32_t>(count);
        }
    }
    return SampleStatus::ok;
}

__global__ void __launch_bounds__(kSampleThreads) sample_kernel(SamplingArguments a) {
    wait_for_previous();
    let_next_start();
    extern __shared__ __align__(16) unsigned char bytes[];
    const Workspace space{reinterpret_cast<Shared*>(bytes), reinterpret_cast<double*>(bytes + sizeof(Shared))};
    const int i_row = static_cast<int>(blockIdx.x);
    const SamplingRow row = a.rows[i_row];
    SampledRow result;
    if (row.logits_row >= 0) { result.status = sample_row(a, row, space, i_row, result); }
    if (threadIdx.x == 0) {
        a.sampled[i_row] = result;
        if (a.tokens != nullptr) { a.tokens[i_row] = result.token; }
    }
}

__global__ void __launch_bounds__(kSampleThreads)
    argmax_kernel(const float* logits, int vocabulary, SampledRow* sampled, std::int32_t* tokens) {
    wait_for_previous();
    let_next_start();
    __shared__ RankKey keys[kWarps];
    __shared__ int bad_tokens[kWarps];
    RankKey best;
    int bad;
    find_peak<kSampleThreads>(logits + static_cast<std::size_t>(blockIdx.x) * vocabulary, vocabulary, best, bad, keys,
                              bad_tokens);
    if (threadIdx.x == 0) {
        SampledRow result;
        result.token = bad != kNoToken ? bad : token_of(best);
        result.status = bad != kNoToken ? SampleStatus::bad_logit : SampleStatus::ok;
        sampled[blockIdx.x] = result;
        if (tokens != nullptr) { tokens[blockIdx.x] = result.token; }
    }
}

static_assert(sizeof(Shared) % 8 == 0);

}  // namespace

cudaError_t sample_rows(const SamplingArguments& a, cudaStream_t stream) {
    if (a.row_count < 0 || a.vocabulary <= 0 || a.vocabulary > kVocabularyMax) { return cudaErrorInvalidValue; }
    if (a.row_count == 0) { return cudaSuccess; }
    const std::size_t shared_bytes =
        sizeof(Shared) + static_cast<std::size_t>(ceil_div(a.vocabulary, kSumChunk)) * sizeof(double);
    const cudaError_t error = cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) { return error; }
    return launch_kernel(sample_kernel, static_cast<unsigned>(a.row_count), kSampleThreads, shared_bytes, stream, a);
}

cudaError_t argmax_rows(const float* logits, std::int32_t vocabulary, std::int32_t rows, SampledRow* sampled,
                        std::int32_t* tokens, cudaStream_t stream) {
    if (rows < 0 || vocabulary <= 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    return launch_kernel(argmax_kernel, static_cast<unsigned>(rows), kSampleThreads, 0, stream, logits, vocabulary,
                         sampled, tokens);
}

}  // namespace engine::cuda
