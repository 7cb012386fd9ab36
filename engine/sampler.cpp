#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/sampling_ranges.h"
#include "engine/exact_math.h"
#include "engine/philox.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::TokenId;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::uint32_t kInPrompt = 1u << 31;
constexpr std::size_t kSumChunk =
    256;  // tokens whose weights are added first: a fixed order that is still quick to walk

struct Peak {
    float logit = -kInfinity;
    TokenId token = 0;
};

/// Of some logits the largest, and whether all are below +infinity and none is NaN.
struct Scan {
    float peak = -kInfinity;
    bool is_good = true;
};

/// The largest is the same in whatever order they are looked at: so many side by side.
constexpr std::size_t kLanes = 16;

[[gnu::always_inline]] inline Scan scan_plain(const float* logits, std::size_t count) {
    std::array<float, kLanes> peaks;
    std::array<std::uint32_t, kLanes> bad{};
    peaks.fill(-kInfinity);
    std::size_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const float logit = logits[i + lane];
            bad[lane] |= static_cast<std::uint32_t>(!(logit < kInfinity));
            peaks[lane] = logit > peaks[lane] ? logit : peaks[lane];
        }
    }
    Scan scan;
    for (; i < count; ++i) {
        scan.is_good = scan.is_good && logits[i] < kInfinity;
        scan.peak = logits[i] > scan.peak ? logits[i] : scan.peak;
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        scan.is_good = scan.is_good && bad[lane] == 0;
        scan.peak = peaks[lane] > scan.peak ? peaks[lane] : scan.peak;
    }
    return scan;
}

constexpr std::size_t kMaskBits = 32;  // of a word

/// -infinity in the place of every logit whose bit is not set.
[[gnu::always_inline]] inline void mask_plain(float* logits, std::size_t count, const std::uint32_t* allowed) {
    std::size_t begin = 0;
    for (; begin + kMaskBits <= count; begin += kMaskBits) {
        const std::uint32_t word = allowed[begin / kMaskBits];
        if (word == ~std::uint32_t{0}) { continue; }
        for (std::uint32_t bit = 0; bit < kMaskBits; ++bit) {
            const float logit = logits[begin + bit];
            logits[begin + bit] = (word >> bit & 1u) != 0 ? logit : -kInfinity;
        }
    }
    for (std::size_t token = begin; token < count; ++token) {
        if ((allowed[token / kMaskBits] >> (token % kMaskBits) & 1u) == 0) { logits[token] = -kInfinity; }
    }
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq")]] Scan scan_avx512(const float* logits, std::size_t count) {
    return scan_plain(logits, count);
}
[[gnu::target("avx2")]] Scan scan_avx2(const float* logits, std::size_t count) {
    return scan_plain(logits, count);
}
[[gnu::target("avx512f,avx512dq")]] void mask_avx512(float* logits, std::size_t count, const std::uint32_t* allowed) {
    mask_plain(logits, count, allowed);
}
[[gnu::target("avx2")]] void mask_avx2(float* logits, std::size_t count, const std::uint32_t* allowed) {
    mask_plain(logits, count, allowed);
}
#endif

Scan scan_best(const float* logits, std::size_t count) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq")) { return scan_avx512(logits, count); }
    if (__builtin_cpu_supports("avx2")) { return scan_avx2(logits, count); }
#endif
    return scan_plain(logits, count);
}

void mask_best(float* logits, std::size_t count, const std::uint32_t* allowed) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq")) { return mask_avx512(logits, count, allowed); }
    if (__builtin_cpu_supports("avx2")) { return mask_avx2(logits, count, allowed); }
#endif
    mask_plain(logits, count, allowed);
}

/// The largest logit, ties to the lower token. Error: internal for NaN and +infinity.
base::Result<Peak> find_peak(std::span<const float> logits) {
    const Scan scan = scan_best(logits.data(), logits.size());
    const float peak = scan.peak;
    if (!scan.is_good) {
        const auto at = std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < kInfinity); });
        return base::fail(ErrorCode::internal,
                          "logit of token " + std::to_string(at - logits.begin()) + " is " + std::to_string(*at));
    }
    const auto at = std::find(logits.begin(), logits.end(), peak);
    return Peak{peak, static_cast<TokenId>(at - logits.begin())};
}

[[gnu::always_inline]] inline void weigh_plain(const float* logits, std::size_t count, double logit_max, double scale,
                                               double* out) {
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = exact::exp((static_cast<double>(logits[i]) - logit_max) * scale);
    }
}

// The same operations in wider registers: multiplications and additions only, so the bits are the same.
#if defined(__x86_64__)
[[gnu::target("avx512f,avx512dq")]] void weigh_avx512(const float* logits, std::size_t count, double logit_max,
                                                      double scale, double* out) {
    weigh_plain(logits, count, logit_max, scale, out);
}
[[gnu::target("avx2")]] void weigh_avx2(const float* logits, std::size_t count, double logit_max, double scale,
                                        double* out) {
    weigh_plain(logits, count, logit_max, scale, out);
}
#endif

void weigh_best(const float* logits, std::size_t count, double logit_max, double scale, double* out) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq")) { return weigh_avx512(logits, count, logit_max, scale, out); }
    if (__builtin_cpu_supports("avx2")) { return weigh_avx2(logits, count, logit_max, scale, out); }
#endif
    weigh_plain(logits, count, logit_max, scale, out);
}

double sum_chunk(std::span<const double> weights) {
    double sum = 0;
    for (const double weight : weights) {
        sum += weight;
    }
    return sum;
}

/// Uniform in [0, 1), named by (seed, choice, position).
double uniform_at(const SamplingParams& params, std::uint64_t position) {
    const auto bits =
        philox4x32({static_cast<std::uint32_t>(position), params.choice, static_cast<std::uint32_t>(position >> 32), 0},
                   {static_cast<std::uint32_t>(params.seed), static_cast<std::uint32_t>(params.seed >> 32)});
    return unit_double(bits[0], bits[1]);
}

/// Ascending where logits descend, as whole numbers; 0 and -0 are one.
std::uint32_t rank_key(float logit) {
    const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);
    return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}

/// Ascending. The lower halves must ascend already: then only the upper ones are looked at, digit by digit.
void sort_keys(std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& scratch) {
    constexpr std::size_t kFewKeys = 512;  // for which comparing costs less than counting 2048 digits three times
    if (keys.size() < kFewKeys) {
        std::sort(keys.begin(), keys.end());
        return;
    }
    constexpr std::uint32_t kDigitBits = 11;
    constexpr std::uint64_t kDigits = 1u << kDigitBits;
    scratch.resize(keys.size());
    for (std::uint32_t shift = 32; shift < 64; shift += kDigitBits) {
        std::array<std::uint32_t, kDigits> places{};
        for (const std::uint64_t key : keys) {
            ++places[key >> shift & (kDigits - 1)];
        }
        std::uint32_t begin = 0;
        for (std::uint32_t& place : places) {
            begin += std::exchange(place, begin);
        }
        for (const std::uint64_t key : keys) {
            scratch[places[key >> shift & (kDigits - 1)]++] = key;
        }
        keys.swap(scratch);
    }
}

bool is_token(TokenId token, std::size_t vocabulary) {
    return token >= 0 && static_cast<std::size_t>(token) < vocabulary;
}

base::Result<void> require(bool holds, const char* field, const std::string& range, double seen) {
    if (holds) { return {}; }
    std::string number = std::to_string(seen);
    return base::fail(ErrorCode::invalid_argument, std::string(field) + " must be " + range + ", got " + number);
}

std::string shown(double number) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", number);
    return text;
}

base::Result<void> require_in(const base::NumberRange& range, const char* field, float seen) {
    return require(range.holds(seen), field, "in [" + shown(range.low) + ", " + shown(range.high) + "]", seen);
}

}  // namespace

base::Result<void> check_sampling(const SamplingParams& params, std::uint32_t vocabulary) {
    const std::uint32_t top_logprobs_max = std::min(base::kTopLogprobsMax, vocabulary);
    const auto checks = {
        require_in(base::kTemperatureRange, "temperature", params.temperature),
        require(params.top_p > 0 && base::kTopPRange.holds(params.top_p), "top_p", "in (0, 1]", params.top_p),
        require_in(base::kMinPRange, "min_p", params.min_p),
        require_in(base::kRepetitionPenaltyRange, "repetition_penalty", params.repetition_penalty),
        require_in(base::kPresencePenaltyRange, "presence_penalty", params.presence_penalty),
        require_in(base::kFrequencyPenaltyRange, "frequency_penalty", params.frequency_penalty),
        require(params.top_logprobs <= top_logprobs_max, "top_logprobs", "at most " + std::to_string(top_logprobs_max),
                params.top_logprobs),
    };
    for (const auto& check : checks) {
        if (!check) { return check; }
    }
    for (const auto& [token, bias] : params.logit_bias) {
        if (!is_token(token, vocabulary)) {
            return base::fail(ErrorCode::invalid_argument, "logit_bias names token " + std::to_string(token) +
                                                               ", the vocabulary has " + std::to_string(vocabulary));
        }
        if (const auto in = require_in(base::kLogitBiasRange, "logit_bias", bias); !in) {
            return base::fail(ErrorCode::invalid_argument, in.error().message + " for token " + std::to_string(token));
        }
    }
    return {};
}

SampledToken sample(std::span<const float> logits, const SamplerContext& context) {
    static thread_local Sampler sampler;
    auto token = sampler.sample(logits, context);
    CHECK(token.has_value(), token.error().message);
    return std::move(*token);
}

base::Result<SampledToken> Sampler::sample(std::span<const float> logits, const SamplerContext& context) {
    CHECK(!logits.empty() && context.params != nullptr);
    const SamplingParams& params = *context.params;
    const std::span<const float> changed = change(logits, context);
    if (changed.data() != logits.data()) {  // a NaN may hide behind the mask
        if (const auto peak = find_peak(logits); !peak) { return base::pass_on(peak); }
    }
    const auto peak = find_peak(changed);
    if (!peak) { return base::pass_on(peak); }
    if (!context.allowed.empty() && peak->logit == -kInfinity) {
        return base::fail(ErrorCode::failed_precondition,
                          "no token is allowed: a grammar and the other masks of this "
                          "sequence leave none of the " +
                              std::to_string(logits.size()));
    }
    SampledToken result;
    // Where everything is masked there is nothing to draw from: the lowest token, as ties always go.
    result.token =
        params.temperature == 0 || peak->logit == -kInfinity ? peak->token : draw(changed, peak->logit, context);
    if (params.logprobs) { add_logprobs(logits, params.top_logprobs, result); }
    return result;
}

base::Result<SampledToken> Sampler::score(std::span<const float> logits, TokenId target, std::uint32_t top_logprobs) {
    if (!is_token(target, logits.size())) {
        return base::fail(
            ErrorCode::invalid_argument,
            "token " + std::to_string(target) + " to score, the vocabulary has " + std::to_string(logits.size()));
    }
    if (const auto peak = find_peak(logits); !peak) { return base::pass_on(peak); }
    SampledToken result;
    result.token = target;
    add_logprobs(logits, top_logprobs, result);
    return result;
}

std::span<const float> Sampler::change(std::span<const float> logits, const SamplerContext& context) {
    const SamplingParams& params = *context.params;
    const bool repetition = params.repetition_penalty != 1 && context.prompt.size() + context.generated.size() > 0;
    const bool generated =
        (params.presence_penalty != 0 || params.frequency_penalty != 0) && !context.generated.empty();
    if (params.logit_bias.empty() && context.masked_tokens.empty() && context.allowed.empty() && !repetition &&
        !generated) {
        return logits;
    }

    changed_.assign(logits.begin(), logits.end());
    for (const auto& [token, bias] : params.logit_bias) {
        if (is_token(token, changed_.size())) { changed_[static_cast<std::size_t>(token)] += bias; }
    }
    if (repetition || generated) { apply_penalties(context); }
    for (const TokenId token : context.masked_tokens) {
        if (is_token(token, changed_.size())) { changed_[static_cast<std::size_t>(token)] = -kInfinity; }
    }
    if (!context.allowed.empty()) {
        CHECK(context.allowed.size() * kMaskBits >= changed_.size(), context.allowed.size() << " words of a mask");
        mask_best(changed_.data(), changed_.size(), context.allowed.data());
    }
    return changed_;
}

void Sampler::apply_penalties(const SamplerContext& context) {
    const SamplingParams& params = *context.params;
    if (counts_.size() < changed_.size()) { counts_.resize(changed_.size()); }
    const auto note = [&](TokenId token, bool in_prompt) {
        if (!is_token(token, changed_.size())) { return; }
        std::uint32_t& count = counts_[static_cast<std::size_t>(token)];
        if (count == 0) { penalised_.push_back(token); }
        count = in_prompt ? count | kInPrompt : count + 1;
    };
    if (params.repetition_penalty != 1) {
        for (const TokenId token : context.prompt) {
            note(token, true);
        }
    }
    for (const TokenId token : context.generated) {
        note(token, false);
    }
    for (const TokenId token : penalised_) {
        const auto index = static_cast<std::size_t>(token);
        const std::uint32_t count = counts_[index] & ~kInPrompt;
        float& logit = changed_[index];
        if (params.repetition_penalty != 1) {
            logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
        }
        logit -= static_cast<float>(count) * params.frequency_penalty;
        if (count > 0) { logit -= params.presence_penalty; }
        counts_[index] = 0;
    }
    penalised_.clear();
}

void Sampler::take_best(std::span<const float> logits, std::size_t count) {
    const auto better = [](const Candidate& a, const Candidate& b) {
        return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
    };
    count = std::min(count, logits.size());
    best_.clear();
    if (count == 0) { return; }
    // A heap with the worst of the best on top: nearly every later token fails one comparison. The order is total, so
    // the outcome does not depend on how it was reached.
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const Candidate candidate{logits[i], static_cast<TokenId>(i)};
        if (best_.size() < count) {
            best_.push_back(candidate);
            if (best_.size() == count) { std::make_heap(best_.begin(), best_.end(), better); }
        } else if (better(candidate, best_.front())) {
            std::pop_heap(best_.begin(), best_.end(), better);
            best_.back() = candidate;
            std::push_heap(best_.begin(), best_.end(), better);
        }
    }
    std::sort(best_.begin(), best_.end(), better);
}

TokenId Sampler::draw(std::span<const float> logits, float logit_max, const SamplerContext& context) {
    const SamplingParams& params = *context.params;
    const double uniform = uniform_at(params, context.position);
    const bool top_k = params.top_k > 0 && params.top_k < logits.size();
    if (top_k || params.top_p < 1) { return draw_ranked(logits, logit_max, context, uniform); }

    double sum = weigh(logits, logit_max, 1.0 / static_cast<double>(params.temperature), context.allowed);
    if (params.min_p > 0) {  // the largest weight is 1
        sum = 0;
        for (std::size_t i = 0; i < weights_.size(); i += kSumChunk) {
            const auto chunk = std::span(weights_).subspan(i, std::min(kSumChunk, weights_.size() - i));
            for (double& weight : chunk) {
                weight = weight < static_cast<double>(params.min_p) ? 0.0 : weight;
            }
            sum += sum_chunk(chunk);
        }
    }
    return pick(sum, uniform);
}

TokenId Sampler::draw_ranked(std::span<const float> logits, float logit_max, const SamplerContext& context,
                             double uniform) {
    const SamplingParams& params = *context.params;
    const double scale = 1.0 / static_cast<double>(params.temperature);
    const auto min_p = static_cast<double>(params.min_p);
    double sum_all = 0;  // of what top_k leaves
    ranked_weights_.clear();
    if (params.top_k > 0 && params.top_k < logits.size()) {
        take_best(logits, params.top_k);
        for (const Candidate& candidate : best_) {
            const double below = static_cast<double>(candidate.logit) - static_cast<double>(logit_max);
            ranked_weights_.push_back(exact::exp(below * scale));
            sum_all += ranked_weights_.back();
        }
    } else {
        // Tokens too light to be kept. Those below the second bound weigh, all together, less than half of what top_p
        // leaves out: the others hold its mass by a margin far above what rounding adds up to. Some room below min_p:
        // exponentials of neighbours may swap by a rounding.
        sum_all = weigh(logits, logit_max, scale, context.allowed);
        const double left_out = (1 - static_cast<double>(params.top_p)) * sum_all;
        rank_heavy(logits, std::max(0.999 * min_p, left_out / 2 / static_cast<double>(logits.size())));
        for (const Candidate& candidate : best_) {
            ranked_weights_.push_back(weights_[static_cast<std::size_t>(candidate.token)]);
        }
    }
    // top_p: the shortest ranking that holds top_p of the mass; min_p: all later ones are smaller.
    const double mass = static_cast<double>(params.top_p) * sum_all;
    std::size_t kept = 0;
    double sum = 0;
    while (kept < ranked_weights_.size() && (kept == 0 || params.top_p == 1 || sum < mass)) {
        const double weight = ranked_weights_[kept];
        if (kept > 0 && weight < min_p) { break; }
        sum += weight;
        ++kept;
    }
    const double target = uniform * sum;
    double before = 0;
    for (std::size_t rank = 0; rank + 1 < kept; ++rank) {
        before += ranked_weights_[rank];
        if (target < before) { return best_[rank].token; }
    }
    return best_[kept - 1].token;
}

void Sampler::rank_heavy(std::span<const float> logits, double floor) {
    keys_.clear();
    for (std::size_t i = 0; i < logits.size(); ++i) {
        if (weights_[i] >= floor) { keys_.push_back(std::uint64_t{rank_key(logits[i])} << 32 | i); }
    }
    sort_keys(keys_, keys_sorted_);
    best_.clear();
    for (const std::uint64_t key : keys_) {
        const auto token = static_cast<std::uint32_t>(key);
        best_.push_back({logits[token], static_cast<TokenId>(token)});
    }
}

double Sampler::weigh(std::span<const float> logits, float logit_max, double scale,
                      std::span<const std::uint32_t> allowed) {
    static_assert(kSumChunk % kMaskBits == 0);
    constexpr std::size_t kChunkWords = kSumChunk / kMaskBits;
    weights_.resize(logits.size());
    double sum = 0;
    for (std::size_t i = 0; i < weights_.size(); i += kSumChunk) {
        const auto chunk = std::span(weights_).subspan(i, std::min(kSumChunk, weights_.size() - i));
        const auto words = allowed.subspan(std::min(i / kMaskBits, allowed.size()));
        const auto of_chunk = words.first(std::min(kChunkWords, words.size()));
        const auto is_zero = [](std::uint32_t word) { return word == 0; };
        if (!of_chunk.empty() && std::all_of(of_chunk.begin(), of_chunk.end(), is_zero)) {
            std::fill(chunk.begin(), chunk.end(), 0.0);  // what e^-infinity is
            continue;
        }
        weigh_best(logits.data() + i, chunk.size(), static_cast<double>(logit_max), scale, chunk.data());
        sum += sum_chunk(chunk);
    }
    return sum;
}

TokenId Sampler::pick(double sum, double uniform) const {
    const double target = uniform * sum;
    double before = 0;  // weights of the tokens passed
    std::size_t begin = 0;
    while (begin + kSumChunk < weights_.size()) {
        const double next = before + sum_chunk(std::span(weights_).subspan(begin, kSumChunk));
        if (target < next) { break; }
        before = next;
        begin += kSumChunk;
    }
    std::size_t last = weights_.size();  // where rounding leaves the target beyond the end
    for (std::size_t i = begin; i < weights_.size(); ++i) {
        if (weights_[i] == 0) { continue; }
        last = i;
        before += weights_[i];
        if (target < before) { break; }
    }
    if (last == weights_.size()) {
        for (last = begin; last > 0 && weights_[last - 1] == 0; --last) {}
        last = last > 0 ? last - 1 : 0;
    }
    return static_cast<TokenId>(last);
}

void Sampler::add_logprobs(std::span<const float> logits, std::uint32_t top_logprobs, SampledToken& token) {
    float logit_max = -kInfinity;
    for (const float logit : logits) {
        logit_max = std::max(logit_max, logit);
    }
    const double normaliser = static_cast<double>(logit_max) + exact::log(weigh(logits, logit_max, 1.0, {}));
    const auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - normaliser); };
    token.logprob = logprob(logits[static_cast<std::size_t>(token.token)]);
    take_best(logits, top_logprobs);
    for (const Candidate& candidate : best_) {
        token.top.push_back({candidate.token, logprob(candidate.logit)});
    }
}

}  // namespace engine
