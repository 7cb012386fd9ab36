#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/gguf.h"
#include "base/result.h"

namespace engine {

/// One tensor of a checkpoint; the bytes are borrowed from the file, little-endian, row-major, not aligned.
struct Tensor {
    std::string dtype;                 // as the file names it: "F32", "F16", "BF16", ...
    std::vector<std::uint64_t> shape;  // empty: a scalar
    std::span<const std::byte> bytes;
    // Of GGUF files only:
    const base::GgufTensorType* blocks = nullptr;  // rows are stored as blocks of this type
    std::uint32_t pair_heads = 0;  // > 0: in each of so many heads row 2 i is the i-th of the first half, 2 i + 1 of
                                   // the second; 0: in order
};

/// "[512, 64]".
std::string format_shape(std::span<const std::uint64_t> shape);

using Tensors = std::map<std::string, Tensor, std::less<>>;

/// Reads one safetensors file: 8 bytes length N, N bytes of JSON, then the tensors, which must cover the rest without
/// gap or overlap. Nothing outside of `file` is touched, whatever it says. The result borrows from `file`.
/// Error: data_loss, naming `file_name` and the tensor, with the numbers.
/// Source: the format's page in huggingface/safetensors.
base::Result<Tensors> parse_safetensors(std::span<const std::byte> file, std::string_view file_name);

}  // namespace engine
