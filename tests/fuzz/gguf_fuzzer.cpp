// libFuzzer's target for GGUF files (preset `fuzz`, needs clang): whatever the bytes are, they are refused, or all that
// we read of them (metadata, shape, tensors' names and rows) stays inside of them and takes bounded memory.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "base/gguf.h"
#include "base/gguf_model.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/gguf_checkpoint.h"

namespace {

/// Every view that a value gives: out of bounds is what the sanitizers find.
std::size_t read_all(const base::GgufFile& file) {
    std::size_t sum = 0;
    for (const auto& [key, value] : file.values) {
        sum += key.size() + value.shown().size() + value.bytes().size();
        if (const auto texts = value.strings()) {
            for (const std::string_view text : *texts) {
                sum += static_cast<std::size_t>(std::count(text.begin(), text.end(), 'a'));
            }
        }
        if (const auto numbers = value.integers()) { sum += numbers->size(); }
        sum += value.string().value_or("").size() + (value.number() ? 1 : 0) + (value.boolean() ? 1 : 0);
    }
    for (const auto& [name, tensor] : file.tensors) {
        sum += name.size();
        if (!tensor.bytes.empty()) { sum += static_cast<std::size_t>(tensor.bytes.front() ^ tensor.bytes.back()); }
    }
    return sum;
}

/// As a checkpoint: its shape, its tensors under other names, the first row of each.
void read_model(const std::string& path) {
    const auto model = base::GgufModel::open(path, base::GgufModel::Parts::first);
    if (!model) { return; }
    const auto shape = engine::gguf_model_shape(*model);
    if (!shape) { return; }
    const auto tensors = engine::gguf_tensors(*model, *shape);
    if (!tensors) { return; }
    for (const auto& [name, tensor] : *tensors) {
        const std::uint64_t width = tensor.shape.empty() ? 0 : tensor.shape.back();
        if (tensor.blocks == nullptr || width == 0 || width > (1u << 20)) { continue; }
        const std::size_t bytes = width / tensor.blocks->block_elements * tensor.blocks->block_bytes;
        if (bytes > tensor.bytes.size()) { std::abort(); }  // the parser has promised whole rows
        std::vector<float> row(width);
        engine::dequantize_row(*tensor.blocks, tensor.bytes.first(bytes), row);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto file = base::GgufFile::parse(bytes, "fuzz.gguf");
    if (!file) { return 0; }
    if (read_all(*file) == std::size_t{0} - 1) { std::abort(); }  // so that the sum is needed
    const int memory = memfd_create("gguf", MFD_CLOEXEC);
    if (memory < 0) { std::abort(); }
    if (write(memory, data, size) == static_cast<ssize_t>(size)) {
        read_model("/proc/self/fd/" + std::to_string(memory));
    }
    close(memory);
    return 0;
}
