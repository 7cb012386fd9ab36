#include "engine/model/safetensors.h"

#include <algorithm>
#include <boost/json.hpp>
#include <limits>
#include <optional>
#include <utility>

#include "base/json_place.h"
#include "engine/model/json_text.h"

namespace engine {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::Result;

constexpr std::uint64_t kHeaderBytesMax = 100'000'000;  // the reference implementation's bound
constexpr std::size_t kDimensionsMax = 8;

/// 0 for a dtype that the format does not know in whole bytes.
std::uint64_t dtype_bytes(std::string_view dtype) {
    constexpr std::pair<std::string_view, std::uint64_t> kSizes[] = {
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
        {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
        {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8},     {"C64", 8}};
    for (const auto& [name, bytes] : kSizes) {
        if (name == dtype) { return bytes; }
    }
    return 0;
}

std::optional<std::uint64_t> as_size(const json::value& value) {
    if (value.is_int64() && value.get_int64() >= 0) { return static_cast<std::uint64_t>(value.get_int64()); }
    if (value.is_uint64()) { return value.get_uint64(); }
    return std::nullopt;
}

std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) { return std::nullopt; }
    return product;
}

std::string printable(std::string_view name) {
    std::string text(name.substr(0, 200));
    std::replace_if(text.begin(), text.end(), [](char c) { return c < 0x20 || c == 0x7f; }, '?');
    return text;
}

/// One entry of the header. Error: what is wrong with it, without the file's and tensor's names.
base::Result<Tensor> read_tensor(const json::value& value, std::span<const std::byte> data) {
    const auto wrong = [](std::string message) { return base::fail(ErrorCode::data_loss, std::move(message)); };
    if (!value.is_object()) { return wrong("its entry is not an object"); }
    const json::object& entry = value.get_object();
    const json::value* dtype = entry.if_contains("dtype");
    const json::value* shape = entry.if_contains("shape");
    const json::value* offsets = entry.if_contains("data_offsets");
    if (dtype == nullptr || !dtype->is_string()) { return wrong("dtype is missing or not a string"); }
    if (shape == nullptr || !shape->is_array()) { return wrong("shape is missing or not a list"); }
    if (offsets == nullptr || !offsets->is_array() || offsets->get_array().size() != 2) {
        return wrong("data_offsets is missing or not a list of two");
    }
    Tensor tensor;
    tensor.dtype = std::string(dtype->get_string());
    std::optional<std::uint64_t> bytes = dtype_bytes(tensor.dtype);
    if (*bytes == 0) { return wrong("dtype '" + printable(tensor.dtype) + "' is not known"); }
    if (shape->get_array().size() > kDimensionsMax) {
        return wrong("has " + std::to_string(shape->get_array().size()) + " dimensions, at most " +
                     std::to_string(kDimensionsMax) + " expected");
    }
    for (const json::value& dimension : shape->get_array()) {
        const auto size = as_size(dimension);
        if (!size) { return wrong("shape holds " + json::serialize(dimension) + ", not a size"); }
        tensor.shape.push_back(*size);
        bytes = multiply(*bytes, *size);
        if (!bytes) { return wrong("shape " + format_shape(tensor.shape) + " is larger than any file"); }
    }
    const auto begin = as_size(offsets->get_array()[0]);
    const auto end = as_size(offsets->get_array()[1]);
    if (!begin || !end || *begin > *end || *end > data.size()) {
        return wrong("data_offsets " + json::serialize(*offsets) + " do not lie inside the " +
                     std::to_string(data.size()) + " bytes of data");
    }
    if (*end - *begin != *bytes) {
        return wrong("data_offsets span " + std::to_string(*end - *begin) + " bytes, " + tensor.dtype + " " +
                     format_shape(tensor.shape) + " needs " + std::to_string(*bytes));
    }
    tensor.bytes = data.subspan(*begin, *bytes);
    return tensor;
}

/// The tensors must follow each other from the first to the last byte of the data.
std::optional<std::string> find_gap(const Tensors& tensors, std::span<const std::byte> data) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
    for (const auto& [name, tensor] : tensors) {
        const auto begin = static_cast<std::uint64_t>(tensor.bytes.data() - data.data());
        ranges.emplace_back(begin, begin + tensor.bytes.size());
    }
    std::sort(ranges.begin(), ranges.end());
    std::uint64_t reached = 0;
    for (const auto& [begin, end] : ranges) {
        if (begin != reached) {
            return "data_offsets " + std::string(begin < reached ? "overlap" : "leave a gap") + " at byte " +
                   std::to_string(std::min(begin, reached)) + " of the data";
        }
        reached = end;
    }
    if (reached != data.size()) {
        return "the tensors end at byte " + std::to_string(reached) + " of the data, the file at " +
               std::to_string(data.size());
    }
    return std::nullopt;
}

}  // namespace

std::string format_shape(std::span<const std::uint64_t> shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
    }
    return text + "]";
}

Result<Tensors> parse_safetensors(std::span<const std::byte> file, std::string_view file_name) {
    const std::string name(file_name);
    if (file.size() < 8) {
        return base::fail(ErrorCode::data_loss,
                          name + " has " + std::to_string(file.size()) + " bytes, a safetensors file at least 8");
    }
    std::uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; --i) {
        header_bytes = header_bytes << 8 | std::to_integer<std::uint64_t>(file[static_cast<std::size_t>(i)]);
    }
    if (header_bytes > kHeaderBytesMax || header_bytes > file.size() - 8) {
        return base::fail(ErrorCode::data_loss, name + " says its header has " + std::to_string(header_bytes) +
                                                    " bytes; the file has " + std::to_string(file.size()) +
                                                    ", and at most " + std::to_string(kHeaderBytesMax) +
                                                    " are allowed");
    }
    const std::string_view header(reinterpret_cast<const char*>(file.data()) + 8, header_bytes);
    if (header.empty() || header.front() != '{') {
        return base::fail(ErrorCode::data_loss, name + " is no safetensors file: its header does not begin with '{'");
    }
    constexpr std::size_t kDepthMax = 8;
    const auto document = parse_json_object(header, name + ": the header", ErrorCode::data_loss, kDepthMax);
    if (!document) { return base::pass_on(document); }
    if (const auto twice = base::find_json_duplicate(header)) {
        return base::fail(ErrorCode::data_loss, name + ": tensor " + printable(twice->key) +
                                                    " is in the header twice, and nothing says which is meant");
    }
    const std::span<const std::byte> data = file.subspan(8 + header_bytes);
    Tensors tensors;
    for (const auto& [key, value] : *document) {
        if (key == "__metadata__") { continue; }
        auto tensor = read_tensor(value, data);
        if (!tensor) { return base::pass_on(tensor, name + ": tensor " + printable(key)); }
        tensors.emplace(std::string(key), std::move(*tensor));
    }
    if (auto gap = find_gap(tensors, data)) { return base::fail(ErrorCode::data_loss, name + ": " + *gap); }
    return tensors;
}

}  // namespace engine
