#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace base {

/// Types of GGUF's metadata values, as the format numbers them.
enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// One value of a GGUF file's metadata: a view of bytes that were checked when the file was parsed, so that a
/// vocabulary of a million strings costs nothing until somebody asks for it. Valid as long as the file's bytes.
class GgufValue {
public:
    GgufValue(GgufType type, GgufType item_type, std::uint64_t count, std::span<const std::byte> bytes)
        : type_(type), item_type_(item_type), count_(count), bytes_(bytes) {}

    GgufType type() const { return type_; }
    /// Of an array; any other value: its own type.
    GgufType item_type() const { return item_type_; }
    /// Items of an array; any other value: 1.
    std::uint64_t count() const { return count_; }
    /// A number, little-endian; the bytes of a string; the items of an array one after another as in the file (a
    /// string there: 8 bytes length, then its bytes).
    std::span<const std::byte> bytes() const { return bytes_; }

    /// Empty when the value is of another kind. An unsigned number beyond int64 is no integer().
    std::optional<std::int64_t> integer() const;
    std::optional<double> number() const;  // of any integer or float
    std::optional<bool> boolean() const;
    std::optional<std::string_view> string() const;
    std::optional<std::vector<std::int64_t>> integers() const;
    std::optional<std::vector<std::string_view>> strings() const;

    /// For messages: short, printable.
    std::string shown() const;

private:
    GgufType type_;
    GgufType item_type_;
    std::uint64_t count_;
    std::span<const std::byte> bytes_;
};

/// How tensors of one type are stored: rows of blocks.
struct GgufTensorType {
    std::uint32_t number = 0;
    std::string_view name;             // "Q4_K"
    std::uint32_t block_elements = 0;  // a row is a whole number of blocks
    std::uint32_t block_bytes = 0;
};

/// Null for numbers that the format does not have, or has no more.
const GgufTensorType* gguf_tensor_type(std::uint32_t number);

struct GgufTensor {
    const GgufTensorType* type = nullptr;  // never null
    std::vector<std::uint64_t> shape;      // as the file has it: the length of a row first
    std::span<const std::byte> bytes;      // row after row
};

/// Text from a file as it may stand in a message: cut off at 200 bytes, control characters replaced.
std::string gguf_printable(std::string_view text);

/// What one GGUF file (versions 2 and 3, little-endian) says and holds. Borrows from the bytes it was parsed from.
struct GgufFile {
    std::uint32_t version = 0;
    std::map<std::string_view, GgufValue> values;
    std::map<std::string_view, GgufTensor> tensors;

    /// Reads everything up to the tensors' data and checks that these lie inside `file`, aligned, without overlap.
    /// Nothing outside of `file` is touched whatever it says, nothing is allocated by a count that the file cannot
    /// hold, and the work is bounded (65,536 keys, as many tensors, 2^24 strings and nested arrays in all). Errors:
    /// data_loss naming `file_name`, key or tensor, and the numbers; unimplemented for another version, the other byte
    /// order, or a tensor of an unknown type. Source: the format's page in ggml-org/ggml (docs/gguf.md).
    static Result<GgufFile> parse(std::span<const std::byte> file, std::string_view file_name);

    /// Null when there is none.
    const GgufValue* find(std::string_view key) const;
};

}  // namespace base
