#include "bench/engine_steps.h"

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stop_token>
#include <thread>
#include <utility>

#include "base/parallel.h"
#include "engine/engine.h"
#include "engine/model/model_config.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using Clock = std::chrono::steady_clock;

/// Steps of each figure that are not counted: first touch of memory, choice of algorithms, recording of graphs.
constexpr std::uint32_t kWarmups = 3;
/// Alone and beside others, of which the median counts.
constexpr std::uint32_t kTurns = 3;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// A sequence that is computed by hand: its tokens so far, and how many of them have KV.
struct Sequence {
    std::vector<base::TokenId> tokens;
    std::size_t prompt_tokens = 0;
    std::vector<base::BlockId> blocks;
    std::uint32_t computed = 0;
    std::uint32_t left() const { return static_cast<std::uint32_t>(tokens.size()) - computed; }
};

/// Drives an engine as a worker does, with sequences that never end.
class Driver {
public:
    Driver(engine::Engine& engine, const EngineBenchOptions& options) : engine_(engine), options_(options) {
        params_.temperature = options.temperature;
        params_.top_p = options.top_p;
        params_.seed = 1;
    }

    /// A new sequence of random tokens with room for `grow` more, in blocks from `first_block` on.
    Sequence make_sequence(std::uint32_t tokens, std::uint32_t grow, std::uint32_t first_block) {
        std::uniform_int_distribution<std::uint32_t> any{0, engine_.shape().vocabulary - 1};
        Sequence sequence;
        sequence.prompt_tokens = tokens;
        for (std::uint32_t i = 0; i < tokens; ++i) {
            sequence.tokens.push_back(static_cast<std::int32_t>(any(random_)));
        }
        sequence.tokens.reserve(tokens + grow);
        for (std::uint32_t i = 0; i < blocks_for(tokens + grow); ++i) {
            sequence.blocks.push_back(base::BlockId{first_block + i});
        }
        return sequence;
    }
    /// Sequences that are about to decode: with their context, and room for the steps of a figure.
    std::vector<Sequence> make_batch(std::uint32_t batch) {
        const std::uint32_t grow = kWarmups + options_.samples + 1;
        const std::uint32_t blocks_each = blocks_for(options_.context + grow);
        std::vector<Sequence> sequences;
        for (std::uint32_t i = 0; i < batch; ++i) {
            sequences.push_back(make_sequence(options_.context, grow, i * blocks_each));
        }
        return sequences;
    }
    std::uint32_t blocks_for(std::uint32_t tokens) const {
        const std::uint32_t block = engine_.layout().block_tokens();
        return (tokens + block - 1) / block;
    }

    /// One step over what is left of `sequences`, at most batch_tokens_max; those that reach their end get a token
    /// more.
    Result<void> step(std::span<Sequence> sequences) {
        engine::Batch batch = std::move(batch_);
        batch.clear();
        std::vector<std::uint32_t> shares(sequences.size());
        std::uint32_t room = options_.batch_tokens_max;
        for (std::size_t i = 0; i < sequences.size() && room > 0; ++i) {
            Sequence& sequence = sequences[i];
            shares[i] = std::min(sequence.left(), room);
            if (shares[i] == 0) { continue; }
            room -= shares[i];
            const std::span<const base::TokenId> all = sequence.tokens;
            const auto tokens = all.subspan(sequence.computed, shares[i]);
            engine::BatchEntry& entry = batch.add();
            entry.sequence = base::SequenceId{i};
            entry.tokens.assign(tokens.begin(), tokens.end());
            entry.position = sequence.computed;
            entry.set_blocks(sequence.blocks);
            entry.sample = shares[i] == sequence.left();
            entry.sampler.assign({.params = &params_,
                                  .position = all.size(),
                                  .prompt = all.first(sequence.prompt_tokens),
                                  .generated = all.subspan(sequence.prompt_tokens)});
        }
        auto result = engine::run_to_end(engine_, std::move(batch));
        if (!result) { return base::pass_on(result); }
        batch_ = std::move(result->batch);
        std::size_t entry = 0;
        for (std::size_t i = 0; i < sequences.size(); ++i) {
            if (shares[i] == 0) { continue; }
            const engine::EntryResult& done = result->entries[entry++];
            if (done.error) { return base::fail(done.error->code, done.error->message); }
            sequences[i].computed += shares[i];
            if (done.sampled) { sequences[i].tokens.push_back(done.sampled->token); }
        }
        return {};
    }

    /// Steps until every sequence has got its first token.
    Result<void> prefill(std::span<Sequence> sequences) {
        const auto unfinished = [](const Sequence& sequence) {
            return sequence.tokens.size() == sequence.prompt_tokens;
        };
        while (std::any_of(sequences.begin(), sequences.end(), unfinished)) {
            // Those that have their token must not take part again.
            const auto first = std::find_if(sequences.begin(), sequences.end(), unfinished);
            if (auto done = step(sequences.subspan(static_cast<std::size_t>(first - sequences.begin()))); !done) {
                return done;
            }
        }
        return {};
    }

private:
    engine::Engine& engine_;
    const EngineBenchOptions& options_;
    engine::SamplingParams params_;
    engine::Batch batch_;  // of the last step: its memory
    std::mt19937 random_{1};
};

double median_of(std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
}

double head_weights(const base::ModelShape& shape) {
    return 1.0 * shape.hidden * shape.vocabulary;
}
double layer_weights(const base::ModelShape& shape) {
    return static_cast<double>(shape.parameters()) - head_weights(shape);
}

Result<PrefillFigure> measure_prefill(engine::Engine& engine, const EngineBenchOptions& options, std::uint32_t tokens) {
    Driver driver(engine, options);
    const base::ModelShape& shape = engine.shape();
    PrefillFigure figure;
    figure.tokens = tokens;
    const double pairs = 0.5 * tokens * (tokens + 1.0);
    figure.flops = 2.0 * (tokens * layer_weights(shape) + head_weights(shape)) +
                   4.0 * pairs * shape.layers * shape.heads_q * shape.head_dim;
    std::vector<double> samples;
    for (std::uint32_t i = 0; i < kWarmups + options.samples; ++i) {
        Sequence sequence = driver.make_sequence(tokens, 1, 0);
        const Clock::time_point begin = Clock::now();
        if (auto done = driver.prefill({&sequence, 1}); !done) { return base::pass_on(done); }
        if (i >= kWarmups) { samples.push_back(seconds_since(begin)); }
    }
    figure.best_s = *std::min_element(samples.begin(), samples.end());
    figure.median_s = median_of(std::move(samples));
    return figure;
}

Result<DecodeFigure> measure_decode(engine::Engine& engine, const EngineBenchOptions& options, std::uint32_t batch) {
    Driver driver(engine, options);
    const base::ModelShape& shape = engine.shape();
    const std::uint32_t steps = kWarmups + options.samples;
    std::vector<Sequence> sequences = driver.make_batch(batch);
    if (auto done = driver.prefill(sequences); !done) { return base::pass_on(done); }
    std::vector<double> samples;
    for (std::uint32_t i = 0; i < steps; ++i) {
        const Clock::time_point begin = Clock::now();
        if (auto done = driver.step(sequences); !done) { return base::pass_on(done); }
        if (i >= kWarmups) { samples.push_back(seconds_since(begin)); }
    }
    DecodeFigure figure;
    figure.batch = batch;
    figure.context = options.context + kWarmups + options.samples / 2 + 1;
    const double element = engine.layout().format().dtype == kv_cache::KvDtype::f32 ? 4 : 2;  // KV follows the weights
    const double layer_element = options.weight_format == "fp8" ? 1 : element;
    figure.bytes = layer_element * layer_weights(shape) + element * head_weights(shape) +
                   1.0 * batch * figure.context * static_cast<double>(engine.layout().bytes_per_token());
    figure.best_s = *std::min_element(samples.begin(), samples.end());
    figure.median_s = median_of(std::move(samples));
    return figure;
}

/// Another engine that computes until it is told to end: prompts, or steps of sequences that decode.
class Neighbour {
public:
    Neighbour(engine::Engine& engine, const EngineBenchOptions& options, std::uint32_t prompt, std::uint32_t batch)
        : thread_([&engine, &options, prompt, batch, this](const std::stop_token& stop) {
              while (!stop.stop_requested() && !error_) {
                  const auto done =
                      batch == 0 ? compute_prompt(engine, options, prompt) : decode(engine, options, batch, stop);
                  if (!done) { error_ = done.error(); }
              }
          }) {}

    /// What ended it before its time.
    std::optional<base::Error> end() {
        thread_.request_stop();
        thread_.join();
        return error_;
    }

private:
    static Result<void> compute_prompt(engine::Engine& engine, const EngineBenchOptions& options,
                                       std::uint32_t tokens) {
        Driver driver(engine, options);
        Sequence sequence = driver.make_sequence(tokens, 1, 0);
        return driver.prefill({&sequence, 1});
    }
    /// As many steps as measure_decode() makes, from the same beginning again and again.
    static Result<void> decode(engine::Engine& engine, const EngineBenchOptions& options, std::uint32_t batch,
                               const std::stop_token& stop) {
        Driver driver(engine, options);
        std::vector<Sequence> sequences = driver.make_batch(batch);
        if (auto done = driver.prefill(sequences); !done) { return done; }
        const std::vector<Sequence> filled = sequences;
        while (!stop.stop_requested()) {
            sequences = filled;
            for (std::uint32_t i = 0; i < options.samples && !stop.stop_requested(); ++i) {
                if (auto done = driver.step(sequences); !done) { return done; }
            }
        }
        return {};
    }

    std::optional<base::Error> error_;  // of the thread, until it has ended
    std::jthread thread_;
};

/// A prompt and a step of decodes of `engines[0]`, alone and beside the others, in turns: a processor's clock may drift
/// by more than what is looked for.
Result<BesideFigure> measure_beside(std::span<const std::unique_ptr<engine::Engine>> engines,
                                    const EngineBenchOptions& asked) {
    EngineBenchOptions options = asked;
    options.samples = std::max(1u, asked.samples / kTurns);
    const std::uint32_t prompt = *std::max_element(options.prompts.begin(), options.prompts.end());
    const std::uint32_t batch = options.batches[options.batches.size() / 2];
    struct Times {
        double prefill = 0;
        double decode = 0;
    };
    const auto measure = [&]() -> Result<Times> {
        const auto prefill = measure_prefill(*engines[0], options, prompt);
        if (!prefill) { return base::pass_on(prefill); }
        const auto decode = measure_decode(*engines[0], options, batch);
        if (!decode) { return base::pass_on(decode); }
        return Times{prefill->median_s, decode->median_s};
    };
    const auto measure_while = [&](std::uint32_t others_batch) -> Result<Times> {
        std::vector<std::unique_ptr<Neighbour>> others;
        for (const auto& engine : engines.subspan(1)) {
            others.push_back(std::make_unique<Neighbour>(*engine, options, prompt, others_batch));
        }
        // Those that decode have prompts to compute before; they are at it when this has been measured once for
        // nothing.
        const auto before = measure_decode(*engines[0], options, batch);
        auto times = before ? measure() : Result<Times>(tl::unexpected(before.error()));
        for (const auto& other : others) {
            if (auto error = other->end()) { return tl::unexpected(*error); }
        }
        return times;
    };
    std::vector<double> prefill_by_prefill, prefill_by_decode, decode_by_prefill, decode_by_decode;
    for (std::uint32_t turn = 0; turn < kTurns; ++turn) {
        const auto alone = measure();
        if (!alone) { return base::pass_on(alone); }
        const auto by_prefill = measure_while(0);
        if (!by_prefill) { return base::pass_on(by_prefill); }
        const auto by_decode = measure_while(batch);
        if (!by_decode) { return base::pass_on(by_decode); }
        prefill_by_prefill.push_back(by_prefill->prefill / alone->prefill);
        prefill_by_decode.push_back(by_decode->prefill / alone->prefill);
        decode_by_prefill.push_back(by_prefill->decode / alone->decode);
        decode_by_decode.push_back(by_decode->decode / alone->decode);
    }
    return BesideFigure{.engines = static_cast<std::uint32_t>(engines.size() - 1),
                        .prefill_by_prefill = median_of(std::move(prefill_by_prefill)),
                        .prefill_by_decode = median_of(std::move(prefill_by_decode)),
                        .decode_by_prefill = median_of(std::move(decode_by_prefill)),
                        .decode_by_decode = median_of(std::move(decode_by_decode))};
}

Result<engine::EngineOptions> engine_options(const EngineBenchOptions& options) {
    const auto shape = engine::read_model_config(options.model_dir);
    if (!shape) { return base::pass_on(shape); }
    const auto largest = [](const std::vector<std::uint32_t>& values) {
        return values.empty() ? 0u : *std::max_element(values.begin(), values.end());
    };
    const std::uint32_t grow = kWarmups + options.samples + 1;
    const std::uint32_t longest = std::max(largest(options.prompts), options.batches.empty() ? 0 : options.context);
    if (longest + grow > shape->context_tokens) {
        return base::fail(ErrorCode::invalid_argument, std::to_string(longest) + " tokens and " + std::to_string(grow) +
                                                           " more of the samples do not fit into the model's " +
                                                           std::to_string(shape->context_tokens) +
                                                           ": lower --prefill, --context or --samples");
    }
    engine::EngineOptions chosen;
    chosen.model_dir = options.model_dir;
    chosen.device = options.device;
    chosen.kernels = options.kernels;
    chosen.prefill_attention = options.prefill_attention;
    chosen.weight_format = options.weight_format;
    chosen.dependent_launch = options.dependent_launch;
    chosen.deterministic = options.deterministic;
    chosen.threads = options.threads;
    chosen.batch_tokens_max = options.batch_tokens_max;
    chosen.batch_sequences_max = std::max(1u, largest(options.batches));
    // Room for the largest figure; as if KV were float on the host, where untouched pages cost nothing.
    const std::uint64_t element = options.device.rfind("cuda", 0) == 0 ? 2 : 4;
    const std::uint64_t per_sequence = longest + grow + chosen.block_tokens;
    chosen.kv_pool_bytes =
        per_sequence * std::max(1u, largest(options.batches)) * shape->kv_elements_per_token() * element;
    return chosen;
}

boost::json::object json_of(const EngineBenchReport& report) {
    boost::json::array prefill;
    for (const PrefillFigure& figure : report.prefill) {
        prefill.push_back({{"tokens", figure.tokens},
                           {"median_s", figure.median_s},
                           {"best_s", figure.best_s},
                           {"tokens_per_s", figure.tokens / figure.median_s},
                           {"flop_per_s", figure.flops / figure.median_s}});
    }
    boost::json::array decode;
    for (const DecodeFigure& figure : report.decode) {
        decode.push_back({{"batch", figure.batch},
                          {"context_tokens", figure.context},
                          {"median_s", figure.median_s},
                          {"best_s", figure.best_s},
                          {"tokens_per_s", figure.batch / figure.median_s},
                          {"bytes_per_s", figure.bytes / figure.median_s}});
    }
    boost::json::object out = {{"engine", report.engine}, {"threads", report.threads}, {"cores", report.cores},
                               {"load_s", report.load_s}, {"prefill", prefill},        {"decode", decode}};
    if (report.beside.engines > 0) {
        // For each other one that computes, as much longer.
        const auto share = [&](double ratio) { return std::max(0.0, (ratio - 1) / report.beside.engines); };
        out["beside"] = {{"engines", report.beside.engines},
                         {"prefill_by_prefill", share(report.beside.prefill_by_prefill)},
                         {"prefill_by_decode", share(report.beside.prefill_by_decode)},
                         {"decode_by_prefill", share(report.beside.decode_by_prefill)},
                         {"decode_by_decode", share(report.beside.decode_by_decode)}};
    }
    return out;
}

void print(const EngineBenchReport& report) {
    std::printf("%s; loaded in %.1f s\n", report.engine.c_str(), report.load_s);
    if (!report.prefill.empty()) {
        std::printf("\nprefill tokens    median ms      best ms    tokens/s     GFLOP/s\n");
    }
    for (const PrefillFigure& figure : report.prefill) {
        std::printf("%14u %12.3f %12.3f %11.1f %11.1f\n", figure.tokens, figure.median_s * 1e3, figure.best_s * 1e3,
                    figure.tokens / figure.median_s, figure.flops / figure.median_s / 1e9);
    }
    if (!report.decode.empty()) {
        std::printf("\ndecode batch  context    median ms      best ms    tokens/s   GB/s (weights and KV once)\n");
    }
    for (const DecodeFigure& figure : report.decode) {
        std::printf("%12u %8u %12.3f %12.3f %11.1f %6.1f\n", figure.batch, figure.context, figure.median_s * 1e3,
                    figure.best_s * 1e3, figure.batch / figure.median_s, figure.bytes / figure.median_s / 1e9);
    }
    const BesideFigure& beside = report.beside;
    if (beside.engines == 0) { return; }
    std::printf("\nbeside %u other%s of this model that compute:  prompts  decode steps\n", beside.engines,
                beside.engines == 1 ? " engine" : " engines");
    std::printf("a prompt takes, times          %27.2f %13.2f\n", beside.prefill_by_prefill, beside.prefill_by_decode);
    std::printf("a decode step takes, times     %27.2f %13.2f\n", beside.decode_by_prefill, beside.decode_by_decode);
}

}  // namespace

Result<EngineBenchReport> measure_engine(const EngineBenchOptions& options) {
    const auto chosen = engine_options(options);
    if (!chosen) { return base::pass_on(chosen); }
    const Clock::time_point begin = Clock::now();
    auto loaded = engine::load_engine(*chosen);
    if (!loaded) { return base::pass_on(loaded); }
    std::vector<std::unique_ptr<engine::Engine>> engines;
    engines.push_back(std::move(*loaded));
    engine::Engine& engine = *engines[0];
    EngineBenchReport report;
    report.load_s = seconds_since(begin);
    report.engine = engine.describe();
    report.threads = options.threads;
    report.cores = static_cast<std::uint32_t>(base::processors());
    for (const std::uint32_t tokens : options.prompts) {
        const auto figure = measure_prefill(engine, options, tokens);
        if (!figure) { return base::pass_on(figure, "prefill of " + std::to_string(tokens)); }
        report.prefill.push_back(*figure);
    }
    for (const std::uint32_t batch : options.batches) {
        const auto figure = measure_decode(engine, options, batch);
        if (!figure) { return base::pass_on(figure, "decode of " + std::to_string(batch)); }
        report.decode.push_back(*figure);
    }
    const std::uint32_t at_once = report.cores / std::max(1u, options.threads);
    if (!engine.kv_store().device().is_host_memory() || options.prompts.empty() || options.batches.empty()) {
        return report;
    }
    while (engines.size() < at_once && engines.size() <= options.beside) {
        auto other = engine::load_engine(*chosen);
        if (!other) { return base::pass_on(other, "another engine for the last figures (--beside 0 leaves them out)"); }
        engines.push_back(std::move(*other));
    }
    if (engines.size() < 2) { return report; }
    const auto beside = measure_beside(engines, options);
    if (!beside) { return base::pass_on(beside, "beside others"); }
    report.beside = *beside;
    return report;
}

int bench_engine_main(const EngineBenchOptions& options) {
    const auto report = measure_engine(options);
    if (!report) {
        std::fprintf(stderr, "bench engine: %s\n", report.error().message.c_str());
        return 1;
    }
    const std::string json = boost::json::serialize(json_of(*report));
    if (options.out_path == "-") {
        std::printf("%s\n", json.c_str());
        return 0;
    }
    print(*report);
    if (options.out_path.empty()) { return 0; }
    std::ofstream file{options.out_path};
    file << json << '\n';
    file.close();
    if (!file) {
        std::fprintf(stderr, "bench engine: cannot write %s\n", options.out_path.c_str());
        return 1;
    }
    return 0;
}

}  // namespace bench
