// Safetensors files: whatever the bytes are, they are refused, or every tensor lies inside of them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "engine/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::vector<std::uint8_t> exact(data, data + size);  // a sanitizer sees one byte too far
    const auto file = std::as_bytes(std::span(exact));
    const auto tensors = engine::parse_safetensors(file, "fuzz.safetensors");
    if (!tensors) { return 0; }
    std::size_t bytes = 0;
    for (const auto& [name, tensor] : *tensors) {
        bytes += tensor.bytes.size();
        if (tensor.bytes.empty()) { continue; }
        if (tensor.bytes.data() < file.data() || &tensor.bytes.back() > &file.back()) { std::abort(); }
    }
    if (bytes > size) { std::abort(); }  // they never overlap
    return 0;
}
