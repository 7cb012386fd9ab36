#include <CLI/CLI.hpp>

#include "bench/perplexity.h"

namespace bench {

void add_bench_perplexity(CLI::App& app, PerplexityOptions& options) {
    app.add_option("--model", options.model_dir, "a model's folder, a GGUF file, or a name of the store")->required();
    app.add_option("--text", options.text_path,
                   "a plain text, or .jsonl with a field \"text\" in each line; either may be compressed (.gz)")
        ->required();
    app.add_option("--context", options.context, "tokens of a window; those behind its middle are scored")
        ->check(CLI::Range(4u, 1u << 20))
        ->capture_default_str();
    app.add_option("--chunks", options.windows_max, "windows at most; 0: as many as the text has")
        ->capture_default_str();
    app.add_option("--bytes-max", options.text_bytes_max, "of the text; what is behind them is not read")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30))
        ->capture_default_str();
    app.add_option("--device", options.device, "auto, host, cuda:0, ...")->capture_default_str();
    app.add_option("--kernels", options.kernels, "auto, amx, avx512, avx2, reference, cuda")->capture_default_str();
    app.add_option("--weight-format", options.weight_format, "as engine.weight_format")->capture_default_str();
    app.add_option("--threads", options.threads, "compute threads of the host; 0: the machine's cores")
        ->check(CLI::Range(0u, 1024u))
        ->capture_default_str();
    app.add_option("--batch-tokens", options.batch_tokens_max, "tokens of a step at most")
        ->check(CLI::Range(1u, 65536u))
        ->capture_default_str();
    app.add_option("--packed-dir", options.packed_dir, "as engine.packed_dir");
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "The text is cut into windows of --context tokens that do not overlap. Each is run alone, with the model's "
        "BOS\n"
        "in the place of its first token where the model has one, and its tokens behind the middle are scored, as\n"
        "llama.cpp's llama-perplexity does it: figures can be compared. Bits per byte compare models with different\n"
        "vocabularies.");
}

}  // namespace bench
