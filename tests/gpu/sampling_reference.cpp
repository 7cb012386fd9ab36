#include "tests/gpu/sampling_reference.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>

#include "engine/exact_math.h"
#include "engine/philox.h"

namespace gpu_check {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kChunk = 256;

double weight_of(float logit, float most, double scale) {
    return engine::exact::exp((static_cast<double>(logit) - static_cast<double>(most)) * scale);
}

double sum_of_chunks(const std::vector<double>& weights) {
    double sum = 0;
    for (std::size_t begin = 0; begin < weights.size(); begin += kChunk) {
        double chunk = 0;
        for (std::size_t i = begin; i < std::min(begin + kChunk, weights.size()); ++i) {
            chunk += weights[i];
        }
        sum += chunk;
    }
    return sum;
}

std::vector<std::size_t> ranking(const std::vector<float>& logits) {
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    return order;
}

std::vector<float> changed_logits(const SamplingInput& input) {
    std::vector<float> logits = input.logits;
    const engine::cuda::SamplingRow& row = input.row;
    for (const auto& [token, bias] : input.biases) {
        logits[static_cast<std::size_t>(token)] += bias;
    }
    for (const auto& [token, generated] : input.penalised) {
        float& logit = logits[static_cast<std::size_t>(token)];
        if (row.repetition_penalty != 1) {
            logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
        }
        logit -= static_cast<float>(generated) * row.frequency_penalty;
        if (generated > 0) { logit -= row.presence_penalty; }
    }
    for (const std::int32_t token : input.masked_tokens) {
        logits[static_cast<std::size_t>(token)] = -kInfinity;
    }
    for (std::size_t i = 0; i < input.allowed.size(); ++i) {
        if (!input.allowed[i]) { logits[i] = -kInfinity; }
    }
    return logits;
}

std::size_t draw(const std::vector<float>& logits, const engine::cuda::SamplingRow& row, SamplingOutput& output) {
    const float most = *std::max_element(logits.begin(), logits.end());
    const double scale = 1.0 / static_cast<double>(row.temperature);
    const auto bits = engine::philox4x32(
        {static_cast<std::uint32_t>(row.position), row.choice, static_cast<std::uint32_t>(row.position >> 32), 0},
        {static_cast<std::uint32_t>(row.seed), static_cast<std::uint32_t>(row.seed >> 32)});
    const double uniform = engine::unit_double(bits[0], bits[1]);
    std::vector<double> weights(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
        weights[i] = weight_of(logits[i], most, scale);
    }
    const auto min_p = static_cast<double>(row.min_p);
    const bool top_k = row.top_k > 0 && row.top_k < logits.size();
    if (top_k || row.top_p < 1) {
        const std::vector<std::size_t> order = ranking(logits);
        const std::size_t best = top_k ? row.top_k : logits.size();
        double sum_all = 0;
        if (top_k) {
            for (std::size_t i = 0; i < best; ++i) {
                sum_all += weights[order[i]];
            }
        } else {
            sum_all = sum_of_chunks(weights);
        }
        std::size_t kept = 0;
        double sum = 0;
        while (kept < best && (kept == 0 || row.top_p == 1 || sum < static_cast<double>(row.top_p) * sum_all)) {
            if (kept > 0 && weights[order[kept]] < min_p) { break; }
            sum += weights[order[kept]];
            ++kept;
        }
        output.ranked = top_k ? best : kept;
        double before = 0;
        for (std::size_t i = 0; i + 1 < kept; ++i) {
            before += weights[order[i]];
            if (uniform * sum < before) { return order[i]; }
        }
        return order[kept - 1];
    }
    for (double& weight : weights) {
        if (min_p > 0 && weight < min_p) { weight = 0; }
    }
    const double target = uniform * sum_of_chunks(weights);
    double before = 0;
    std::size_t begin = 0;
    for (; begin + kChunk < weights.size(); begin += kChunk) {
        double chunk = 0;
        for (std::size_t i = begin; i < begin + kChunk; ++i) {
            chunk += weights[i];
        }
        if (target < before + chunk) { break; }
        before += chunk;
    }
    std::size_t last = weights.size();
    for (std::size_t i = begin; i < weights.size(); ++i) {
        if (weights[i] == 0) { continue; }
        last = i;
        before += weights[i];
        if (target < before) { return i; }
    }
    if (last == weights.size()) {
        last = begin;
        while (last > 0 && weights[last - 1] == 0) {
            --last;
        }
        last = last > 0 ? last - 1 : 0;
    }
    return last;
}

}  // namespace

std::optional<SamplingOutput> sample_reference(const SamplingInput& input) {
    const auto is_bad = [](float logit) { return !(logit < kInfinity); };
    if (std::any_of(input.logits.begin(), input.logits.end(), is_bad)) { return std::nullopt; }
    SamplingOutput output;
    if (input.row.score_target >= 0) {
        output.token = input.row.score_target;
    } else {
        const std::vector<float> logits = changed_logits(input);
        if (std::any_of(logits.begin(), logits.end(), is_bad)) { return std::nullopt; }
        const auto peak = std::max_element(logits.begin(), logits.end());
        output.token = input.row.temperature == 0 || *peak == -kInfinity
                           ? static_cast<std::int32_t>(peak - logits.begin())
                           : static_cast<std::int32_t>(draw(logits, input.row, output));
    }
    if (input.row.logprobs != 0 || input.row.score_target >= 0) {
        const float most = *std::max_element(input.logits.begin(), input.logits.end());
        std::vector<double> weights(input.logits.size());
        for (std::size_t i = 0; i < weights.size(); ++i) {
            weights[i] = weight_of(input.logits[i], most, 1.0);
        }
        const double normaliser = static_cast<double>(most) + engine::exact::log(sum_of_chunks(weights));
        const auto logprob = [&](std::size_t token) {
            return static_cast<float>(static_cast<double>(input.logits[token]) - normaliser);
        };
        output.logprob = logprob(static_cast<std::size_t>(output.token));
        const std::vector<std::size_t> order = ranking(input.logits);
        for (std::size_t i = 0; i < std::min<std::size_t>(input.row.top_logprobs, order.size()); ++i) {
            output.top_tokens.push_back(static_cast<std::int32_t>(order[i]));
            output.top_logprobs.push_back(logprob(order[i]));
        }
    }
    return output;
}

}  // namespace gpu_check
