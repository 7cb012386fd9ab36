#include <algorithm>

#include "tests/gpu/harness.h"
#include "tests/gpu/sampling_reference.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;
using cuda::SampleStatus;

/// Logits as a model makes them, or with many ties, or nearly flat.
SamplingInput random_input(Checks& checks, std::int32_t vocabulary) {
    const auto chance = [&](int of) { return random_int(checks, 0, of - 1) == 0; };
    SamplingInput input;
    const float deviation = chance(4) ? 0.2f : 4.0f;
    input.logits = random_floats(checks, static_cast<std::size_t>(vocabulary), deviation);
    if (chance(3)) {
        for (float& logit : input.logits) {
            logit = std::round(logit);  // ties, and zeros of both signs
        }
    }
    cuda::SamplingRow& row = input.row;
    row.temperature = chance(4) ? 0.0f : 0.1f + static_cast<float>(random_int(checks, 0, 150)) / 100;
    row.top_k = chance(2) ? 0 : static_cast<std::uint32_t>(random_int(checks, 1, chance(2) ? 5 : 1100));
    row.top_p = chance(2) ? 1.0f : static_cast<float>(random_int(checks, 1, 100)) / 100;
    row.min_p = chance(3) ? static_cast<float>(random_int(checks, 0, 30)) / 100 : 0.0f;
    row.seed = checks.random();
    row.choice = static_cast<std::uint32_t>(random_int(checks, 0, 3));
    row.position = static_cast<std::uint64_t>(random_int(checks, 0, 1 << 20)) << (chance(8) ? 20 : 0);
    row.logprobs = chance(2) ? 1 : 0;
    row.top_logprobs = row.logprobs != 0 ? static_cast<std::uint32_t>(random_int(checks, 0, 20)) : 0;
    if (chance(8)) { row.score_target = random_int(checks, 0, vocabulary - 1); }
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(vocabulary));
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<std::int32_t>(i);
    }
    std::shuffle(tokens.begin(), tokens.end(), checks.random);
    const auto some = static_cast<std::size_t>(std::min(vocabulary, 700));
    if (chance(3)) {
        for (std::size_t i = 0; i < some / 7; ++i) {
            input.biases.push_back({tokens[i], static_cast<float>(random_int(checks, -100, 100))});
        }
    }
    if (chance(3)) {
        row.repetition_penalty = chance(2) ? 1.0f : 1.3f;
        row.presence_penalty = chance(2) ? 0.0f : 0.5f;
        row.frequency_penalty = chance(2) ? 0.0f : -0.25f;
        for (std::size_t i = some / 10; i < some; ++i) {
            input.penalised.push_back({tokens[i], static_cast<std::uint32_t>(random_int(checks, 0, 4))});
        }
    }
    if (chance(4)) { input.masked_tokens = {tokens[0], tokens[some / 2], tokens[some - 1]}; }
    if (chance(4)) {
        const int keep = chance(4) ? 0 : 20;  // of 100; 0: nothing is left
        for (std::int32_t i = 0; i < vocabulary; ++i) {
            input.allowed.push_back(random_int(checks, 0, 99) < keep);
        }
    }
    if (chance(20)) { input.logits[static_cast<std::size_t>(tokens.back())] = chance(2) ? NAN : INFINITY; }
    return input;
}

void check_vocabulary(Checks& checks, std::int32_t vocabulary, std::size_t row_count) {
    std::vector<SamplingInput> inputs;
    for (std::size_t i = 0; i < row_count; ++i) {
        inputs.push_back(random_input(checks, vocabulary));
    }
    const auto words = static_cast<std::size_t>((vocabulary + 31) / 32);
    std::vector<float> logits;
    std::vector<cuda::SamplingRow> rows;
    std::vector<cuda::LogitBias> biases;
    std::vector<cuda::PenalisedToken> penalised;
    std::vector<std::int32_t> masked;
    std::vector<std::uint32_t> masks;
    for (std::size_t i = 0; i < row_count; ++i) {
        SamplingInput& input = inputs[i];
        cuda::SamplingRow row = input.row;
        row.logits_row = static_cast<std::int32_t>(i);
        logits.insert(logits.end(), input.logits.begin(), input.logits.end());
        row.bias_begin = static_cast<std::int32_t>(biases.size());
        biases.insert(biases.end(), input.biases.begin(), input.biases.end());
        row.bias_end = static_cast<std::int32_t>(biases.size());
        row.penalised_begin = static_cast<std::int32_t>(penalised.size());
        penalised.insert(penalised.end(), input.penalised.begin(), input.penalised.end());
        row.penalised_end = static_cast<std::int32_t>(penalised.size());
        row.masked_begin = static_cast<std::int32_t>(masked.size());
        masked.insert(masked.end(), input.masked_tokens.begin(), input.masked_tokens.end());
        row.masked_end = static_cast<std::int32_t>(masked.size());
        if (!input.allowed.empty()) {
            row.mask_row = static_cast<std::int32_t>(masks.size() / words);
            masks.resize(masks.size() + words, 0);
            for (std::size_t t = 0; t < input.allowed.size(); ++t) {
                if (input.allowed[t]) { masks[masks.size() - words + t / 32] |= 1u << (t % 32); }
            }
        }
        rows.push_back(row);
    }
    rows.push_back({});  // idle
    const DeviceArray<float> device_logits(logits);
    const DeviceArray<cuda::SamplingRow> device_rows(rows);
    const DeviceArray<cuda::LogitBias> device_biases(biases);
    const DeviceArray<cuda::PenalisedToken> device_penalised(penalised);
    const DeviceArray<std::int32_t> device_masked(masked);
    const DeviceArray<std::uint32_t> device_masks(masks);
    DeviceArray<float> changed(rows.size() * static_cast<std::size_t>(vocabulary));
    DeviceArray<cuda::SampledRow> sampled(rows.size());
    DeviceArray<std::int32_t> tokens(rows.size());
    DeviceArray<std::int32_t> top_tokens(rows.size() * cuda::kTopLogprobsMax);
    DeviceArray<float> top_logprobs(rows.size() * cuda::kTopLogprobsMax);
    cuda::SamplingArguments a;
    a.logits = device_logits.get();
    a.vocabulary = vocabulary;
    a.rows = device_rows.get();
    a.row_count = static_cast<std::int32_t>(rows.size());
    a.biases = device_biases.get();
    a.penalised = device_penalised.get();
    a.masks = device_masks.get();
    a.masked_tokens = device_masked.get();
    a.changed = changed.get();
    a.sampled = sampled.get();
    a.tokens = tokens.get();
    a.top_tokens = top_tokens.get();
    a.top_logprobs = top_logprobs.get();
    GPU_REQUIRE(cuda::sample_rows(a, nullptr));

    const std::vector<cuda::SampledRow> out = sampled.download();
    const std::vector<std::int32_t> out_tokens = tokens.download();
    const std::vector<std::int32_t> out_top = top_tokens.download();
    const std::vector<float> out_logprobs = top_logprobs.download();
    std::vector<std::optional<SamplingOutput>> references(row_count);
    parallel_for(row_count, [&](std::size_t i) { references[i] = sample_reference(inputs[i]); });
    std::size_t wrong = 0;
    std::size_t on_host = 0;
    for (std::size_t i = 0; i < row_count; ++i) {
        const cuda::SampledRow& row = out[i];
        const std::optional<SamplingOutput>& reference = references[i];
        bool right = true;
        if (!reference) {
            right = row.status == SampleStatus::bad_logit;
        } else if (reference->ranked > static_cast<std::size_t>(cuda::kRankedTokensMax)) {
            right = row.status == SampleStatus::needs_host;
            ++on_host;
        } else {
            right = row.status == SampleStatus::ok && row.token == reference->token && out_tokens[i] == row.token &&
                    std::memcmp(&row.logprob, &reference->logprob, 4) == 0 &&
                    row.top_count == reference->top_tokens.size();
            for (std::size_t t = 0; right && t < reference->top_tokens.size(); ++t) {
                const std::size_t at = i * cuda::kTopLogprobsMax + t;
                right = out_top[at] == reference->top_tokens[t] &&
                        std::memcmp(&out_logprobs[at], &reference->top_logprobs[t], 4) == 0;
            }
        }
        if (!right && wrong < 3) {
            std::printf("      row %zu: status %d token %d logprob %.9g, reference token %d logprob %.9g\n", i,
                        static_cast<int>(row.status), row.token, number_of(row.logprob),
                        reference ? reference->token : -2, reference ? number_of(reference->logprob) : 0.0);
        }
        wrong += right ? 0u : 1u;
    }
    const bool idle = out[row_count].token == -1 && out[row_count].status == SampleStatus::ok;
    checks.note(wrong == 0 && idle && sampled.guards_intact() && tokens.guards_intact() && top_tokens.guards_intact() &&
                    top_logprobs.guards_intact() && changed.guards_intact(),
                "sample_rows vocabulary " + std::to_string(vocabulary) + ": token and log-probabilities bit for bit",
                std::to_string(wrong) + " of " + std::to_string(row_count) + " rows differ, " +
                    std::to_string(on_host) + " left to the host");

    // Greedy alone.
    DeviceArray<cuda::SampledRow> greedy(row_count);
    GPU_REQUIRE(cuda::argmax_rows(device_logits.get(), vocabulary, static_cast<std::int32_t>(row_count), greedy.get(),
                                  tokens.get(), nullptr));
    const std::vector<cuda::SampledRow> best = greedy.download();
    wrong = 0;
    for (std::size_t i = 0; i < row_count; ++i) {
        const std::vector<float>& row = inputs[i].logits;
        const bool bad = std::any_of(row.begin(), row.end(), [](float x) { return !(x < INFINITY); });
        const auto at = std::max_element(row.begin(), row.end()) - row.begin();
        const bool right =
            bad ? best[i].status == SampleStatus::bad_logit : best[i].status == SampleStatus::ok && best[i].token == at;
        wrong += right ? 0u : 1u;
    }
    checks.note(wrong == 0 && greedy.guards_intact(), "argmax_rows vocabulary " + std::to_string(vocabulary),
                std::to_string(wrong) + " rows differ");
}

}  // namespace

void check_sampling(Checks& checks) {
    check_vocabulary(checks, 1, 40);
    check_vocabulary(checks, 255, 100);
    check_vocabulary(checks, 512, 300);
    check_vocabulary(checks, 1025, 300);
    check_vocabulary(checks, 32000, 200);
    check_vocabulary(checks, 128256, 100);
}

}  // namespace gpu_check
