#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/model_shape.h"
#include "base/result.h"

namespace CLI {
class App;
}

namespace cli {

struct ModelMakeOptions {
    std::string shape;  // stories15m, 110m, tinyllama-1.1b, llama-3.2-1b, llama-3.1-8b, qwen3-0.6b, kv-8b
    std::string out_dir;
    std::string dtype = "bf16";  // f32, bf16, f16
    std::uint64_t seed = 1;
    std::uint32_t layers = 0;  // 0: as the shape has them
    std::uint64_t shard_bytes =
        std::uint64_t{2} * 1024 * 1024 * 1024;  // no file of weights is longer, if tensors allow
    bool force = false;                         // writes into a folder that is not empty
};

/// The shape of that name; empty for an unknown one.
std::optional<base::ModelShape> named_shape(std::string_view name);

/// Writes a model folder that every subcommand can use: config.json, random weights in safetensors, a tokenizer that
/// covers the vocabulary (one token a byte; the rest are made-up words that only the model says), a chat template.
/// Error: invalid_argument for an unknown shape or dtype, failed_precondition for a folder with something in it, and
/// those of the file system.
base::Result<void> make_model(const ModelMakeOptions& options);

/// Adds the flags of `sluice model make` to its subcommand; they write into `options`, which must outlive the parsing.
void add_model_make(CLI::App& command, ModelMakeOptions& options);

/// make_model() with its progress on stderr and one line on stdout at the end. The exit status.
int model_make_main(const ModelMakeOptions& options);

}  // namespace cli
