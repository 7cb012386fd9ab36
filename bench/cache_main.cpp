#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>

#include "bench/cache_encoder.h"
#include "bench/cache_replay.h"

namespace bench {

int bench_cache_main(const CacheBenchOptions& options) {
    const auto fail = [](const std::string& message) {
        std::fprintf(stderr, "bench cache: %s\n", message.c_str());
        return 1;
    };
    if (options.trace_path.empty() && options.pairs_path.empty() && options.answers_path.empty()) {
        return fail("nothing to do: give --trace FILE, --pairs FILE, --answers FILE, or several");
    }
    const caching::HashedEmbedder hashed;
    std::unique_ptr<caching::Embedder> encoder;
    std::unique_ptr<caching::Embedder> embedder;
    if (options.embedder == "hashed") {
        embedder = std::make_unique<caching::HashedEmbedder>();
    } else {
        auto loaded = load_encoder(options.embedder, options.kernels, options.threads);
        if (!loaded) { return fail(loaded.error().message); }
        encoder = std::move(*loaded);
        embedder = std::make_unique<caching::BlendedEmbedder>(*encoder, hashed);
    }
    boost::json::object report;
    if (!options.trace_path.empty()) {
        auto replayed = replay_trace(options, *embedder);
        if (!replayed) { return fail(replayed.error().message); }
        report = std::move(*replayed);
    }
    if (!options.pairs_path.empty()) {
        auto scored = score_pairs(options, *embedder);
        if (!scored) { return fail(scored.error().message); }
        if (options.trace_path.empty()) {
            report = std::move(*scored);
        } else {
            report["pairs"] = std::move(*scored);
        }
    }
    if (!options.answers_path.empty()) {
        auto judged = score_answers(options);
        if (!judged) { return fail(judged.error().message); }
        report["answers"] = std::move(*judged);
    }
    const std::string text = boost::json::serialize(report);
    if (options.out_path.empty() || options.out_path == "-") {
        std::printf("%s\n", text.c_str());
        return 0;
    }
    std::ofstream file{options.out_path};
    file << text << '\n';
    file.close();
    return file ? 0 : fail("cannot write " + options.out_path);
}

void add_bench_cache(CLI::App& app, CacheBenchOptions& options) {
    app.add_option("--trace", options.trace_path, "requests with an oracle, JSON lines, gzip or not");
    app.add_option("--pairs", options.pairs_path, "pairs of questions with a label, JSON lines, gzip or not");
    app.add_option("--answers", options.answers_path,
                   "pairs of answers with a label, for the judge, JSON lines, gzip or not");
    app.add_option("--embedder", options.embedder, "hashed (needs no model), or a sentence encoder's folder or name")
        ->capture_default_str();
    app.add_option("--config", options.config_path, "YAML with the section caching.semantic");
    app.add_option("--model-ms", options.model_ms, "what the played model takes for an answer")
        ->check(CLI::Range(0.0, 1e6))
        ->capture_default_str();
    app.add_option("--pool-sequences", options.pool_sequences,
                   "that the played model answers at a time, to compare bounds that follow its load; 0: any number")
        ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1'000'000}))
        ->capture_default_str();
    app.add_option("--kernels", options.kernels, "of the encoder: auto, amx, avx512, avx2, reference")
        ->capture_default_str();
    app.add_option("--threads", options.threads, "of the encoder")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--seed", options.seed, "of shadow generations and evictions")->capture_default_str();
    app.add_option("--decisions", options.decisions_path, "a JSON line for each request or pair");
    app.add_option("--out", options.out_path, "JSON; -: standard output");
}

}  // namespace bench
