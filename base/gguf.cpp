#include "base/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace base {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF's numbers are read in place");

constexpr std::uint64_t kKeysMax = 1u << 16;     // real files have some dozens
constexpr std::uint64_t kTensorsMax = 1u << 16;  // the largest mixtures of experts have a few thousand
constexpr std::uint64_t kItemsMax = 1u << 24;    // strings and inner arrays of all arrays; a vocabulary has < 2^20
constexpr std::uint64_t kKeyBytesMax = 65'535;   // the format's bound
constexpr std::uint64_t kTensorNameBytesMax = 1024;
constexpr std::uint32_t kDimensionsMax = 4;
constexpr unsigned kArrayDepthMax = 4;  // nobody nests at all
constexpr std::uint64_t kAlignmentDefault = 32;
constexpr std::uint64_t kAlignmentMax = 1u << 20;

constexpr GgufTensorType kTensorTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},
};

/// 0 for strings, arrays and types that the format does not have.
std::uint64_t scalar_bytes(GgufType type) {
    switch (type) {
        case GgufType::u8:
        case GgufType::i8:
        case GgufType::boolean:
            return 1;
        case GgufType::u16:
        case GgufType::i16:
            return 2;
        case GgufType::u32:
        case GgufType::i32:
        case GgufType::f32:
            return 4;
        case GgufType::u64:
        case GgufType::i64:
        case GgufType::f64:
            return 8;
        case GgufType::string:
        case GgufType::array:
            break;
    }
    return 0;
}

std::string_view as_text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
T load(const std::byte* from) {
    T value{};
    std::memcpy(&value, from, sizeof value);
    return value;
}

/// Calls take(number of the type's own C++ type); false for what is no number.
template <class Take>
bool visit_number(GgufType type, const std::byte* from, const Take& take) {
    switch (type) {
        case GgufType::u8:
            return take(load<std::uint8_t>(from)), true;
        case GgufType::i8:
            return take(load<std::int8_t>(from)), true;
        case GgufType::u16:
            return take(load<std::uint16_t>(from)), true;
        case GgufType::i16:
            return take(load<std::int16_t>(from)), true;
        case GgufType::u32:
            return take(load<std::uint32_t>(from)), true;
        case GgufType::i32:
            return take(load<std::int32_t>(from)), true;
        case GgufType::u64:
            return take(load<std::uint64_t>(from)), true;
        case GgufType::i64:
            return take(load<std::int64_t>(from)), true;
        case GgufType::f32:
            return take(load<float>(from)), true;
        case GgufType::f64:
            return take(load<double>(from)), true;
        case GgufType::boolean:
        case GgufType::string:
        case GgufType::array:
            break;
    }
    return false;
}

std::optional<std::int64_t> integer_at(GgufType type, const std::byte* from) {
    std::optional<std::int64_t> found;
    visit_number(type, from, [&](auto value) {
        if constexpr (std::is_same_v<decltype(value), std::uint64_t>) {
            if (value <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
                found = static_cast<std::int64_t>(value);
            }
        } else if constexpr (std::is_integral_v<decltype(value)>) {
            found = std::int64_t{value};
        }
    });
    return found;
}

std::optional<std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) { return std::nullopt; }
    return product;
}

std::string format_shape(std::span<const std::uint64_t> shape) {
    std::string text;
    for (const std::uint64_t length : shape) {
        text += (text.empty() ? "[" : ", ") + std::to_string(length);
    }
    return text.empty() ? "[]" : text + "]";
}

tl::unexpected<Error> broken(std::string what) {
    return fail(ErrorCode::data_loss, std::move(what));
}

/// The bytes of a file from front to back.
class Reader {
public:
    explicit Reader(std::span<const std::byte> file) : rest_(file), size_(file.size()) {}

    std::uint64_t position() const { return size_ - rest_.size(); }
    std::uint64_t left() const { return rest_.size(); }

    Result<std::span<const std::byte>> take(std::uint64_t bytes, std::string_view what) {
        if (bytes > rest_.size()) {
            return broken(std::string(what) + " has " + std::to_string(bytes) + " bytes at byte " +
                          std::to_string(position()) + ", the file ends after " + std::to_string(rest_.size()));
        }
        const auto taken = rest_.first(bytes);
        rest_ = rest_.subspan(bytes);
        return taken;
    }

    template <class T>
    Result<T> number(std::string_view what) {
        const auto bytes = take(sizeof(T), what);
        if (!bytes) { return pass_on(bytes); }
        return load<T>(bytes->data());
    }

    Result<std::string_view> text(std::uint64_t bytes_max, std::string_view what) {
        const auto bytes = number<std::uint64_t>(what);
        if (!bytes) { return pass_on(bytes); }
        if (*bytes > bytes_max) {
            return broken(std::string(what) + " has " + std::to_string(*bytes) + " bytes, at most " +
                          std::to_string(bytes_max) + " are allowed");
        }
        const auto taken = take(*bytes, what);
        if (!taken) { return pass_on(taken); }
        return as_text(*taken);
    }

    /// What was read since the reader stood at `position`.
    std::span<const std::byte> since(std::uint64_t begin) const {
        return {rest_.data() - (position() - begin), position() - begin};
    }

private:
    std::span<const std::byte> rest_;
    std::uint64_t size_;
};

Result<GgufType> read_type(Reader& reader) {
    const auto number = reader.number<std::uint32_t>("the type of the value");
    if (!number) { return pass_on(number); }
    if (*number > static_cast<std::uint32_t>(GgufType::f64)) {
        return broken("the type of the value is " + std::to_string(*number) + ", known are 0 to 12");
    }
    return static_cast<GgufType>(*number);
}

/// Walks over the items of an array (its type and count have been read). `items_left`: of the whole file.
Result<void> skip_items(Reader& reader, GgufType item, std::uint64_t count, unsigned depth, std::uint64_t& items_left) {
    if (const std::uint64_t size = scalar_bytes(item); size > 0) {
        const auto bytes = multiply(count, size);
        if (!bytes) { return broken("an array of " + std::to_string(count) + " items is larger than any file"); }
        const auto taken = reader.take(*bytes, "an array of " + std::to_string(count) + " items");
        if (!taken) { return pass_on(taken); }
        return {};
    }
    if (count > reader.left() / 8) {  // what every string and every inner array has at least
        return broken("an array of " + std::to_string(count) + " items at byte " + std::to_string(reader.position()) +
                      ", the file ends after " + std::to_string(reader.left()) + " bytes");
    }
    if (count > items_left) {
        return broken("arrays of strings with more than " + std::to_string(kItemsMax) + " items");
    }
    items_left -= count;
    for (std::uint64_t i = 0; i < count; ++i) {
        if (item == GgufType::string) {
            const auto text = reader.text(std::numeric_limits<std::uint64_t>::max(), "a string of the array");
            if (!text) { return pass_on(text, "item " + std::to_string(i)); }
            continue;
        }
        if (depth >= kArrayDepthMax) {
            return broken("arrays are nested more than " + std::to_string(kArrayDepthMax) + " deep");
        }
        const auto inner = read_type(reader);
        if (!inner) { return pass_on(inner); }
        const auto inner_count = reader.number<std::uint64_t>("the count of an array");
        if (!inner_count) { return pass_on(inner_count); }
        if (auto done = skip_items(reader, *inner, *inner_count, depth + 1, items_left); !done) { return done; }
    }
    return {};
}

Result<GgufValue> read_value(Reader& reader, std::uint64_t& items_left) {
    const auto type = read_type(reader);
    if (!type) { return pass_on(type); }
    if (*type == GgufType::string) {
        const auto text = reader.text(std::numeric_limits<std::uint64_t>::max(), "the string");
        if (!text) { return pass_on(text); }
        return GgufValue(*type, *type, 1, std::as_bytes(std::span(*text)));
    }
    if (*type == GgufType::array) {
        const auto item = read_type(reader);
        if (!item) { return pass_on(item); }
        const auto count = reader.number<std::uint64_t>("the count of an array");
        if (!count) { return pass_on(count); }
        const std::uint64_t begin = reader.position();
        if (auto done = skip_items(reader, *item, *count, 1, items_left); !done) { return pass_on(done); }
        return GgufValue(*type, *item, *count, reader.since(begin));
    }
    const auto bytes = reader.take(scalar_bytes(*type), "the value");
    if (!bytes) { return pass_on(bytes); }
    if (*type == GgufType::boolean && std::to_integer<int>((*bytes)[0]) > 1) {
        return broken("a boolean is " + std::to_string(std::to_integer<int>((*bytes)[0])) + ", must be 0 or 1");
    }
    return GgufValue(*type, *type, 1, *bytes);
}

/// A tensor's entry before the place of the data is known.
struct TensorEntry {
    std::string_view name;
    GgufTensor tensor;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

/// Error: what is wrong with it, without the tensor's name.
Result<void> read_tensor(Reader& reader, TensorEntry& entry) {
    const auto dimensions = reader.number<std::uint32_t>("the number of dimensions");
    if (!dimensions) { return pass_on(dimensions); }
    if (*dimensions == 0 || *dimensions > kDimensionsMax) {
        return broken("has " + std::to_string(*dimensions) + " dimensions, must be 1 to " +
                      std::to_string(kDimensionsMax));
    }
    std::vector<std::uint64_t>& shape = entry.tensor.shape;
    std::uint64_t rows = 1;
    for (std::uint32_t i = 0; i < *dimensions; ++i) {
        const auto length = reader.number<std::uint64_t>("the shape");
        if (!length) { return pass_on(length); }
        shape.push_back(*length);
        if (*length == 0) { return broken("has the shape " + format_shape(shape) + " without elements"); }
        if (i == 0) { continue; }
        const auto product = multiply(rows, *length);
        if (!product) { return broken("has the shape " + format_shape(shape) + ", larger than any file"); }
        rows = *product;
    }
    const auto type = reader.number<std::uint32_t>("the type");
    if (!type) { return pass_on(type); }
    const auto offset = reader.number<std::uint64_t>("the offset");
    if (!offset) { return pass_on(offset); }
    entry.offset = *offset;
    entry.tensor.type = gguf_tensor_type(*type);
    if (entry.tensor.type == nullptr) {
        return fail(ErrorCode::unimplemented, "is stored as type " + std::to_string(*type) + ", which is not known");
    }
    const GgufTensorType& stored = *entry.tensor.type;
    if (shape[0] % stored.block_elements != 0) {
        return broken("has rows of " + std::to_string(shape[0]) + " elements, " + std::string(stored.name) +
                      " needs a multiple of " + std::to_string(stored.block_elements));
    }
    const auto row_bytes = multiply(shape[0] / stored.block_elements, stored.block_bytes);
    const auto bytes = row_bytes ? multiply(*row_bytes, rows) : std::nullopt;
    if (!bytes) { return broken("has the shape " + format_shape(shape) + ", larger than any file"); }
    entry.bytes = *bytes;
    return {};
}

Result<std::uint64_t> alignment_of(const GgufFile& file) {
    const GgufValue* value = file.find("general.alignment");
    if (value == nullptr) { return kAlignmentDefault; }
    const auto alignment = value->integer();
    if (!alignment || *alignment < 1 || std::uint64_t(*alignment) > kAlignmentMax ||
        (*alignment & (*alignment - 1)) != 0) {
        return broken("general.alignment is " + value->shown() + ", must be a power of two up to " +
                      std::to_string(kAlignmentMax));
    }
    return static_cast<std::uint64_t>(*alignment);
}

/// Gives the tensors their bytes. Error: data_loss, naming the tensor.
Result<void> place_tensors(std::vector<TensorEntry>& entries, std::span<const std::byte> data,
                           std::uint64_t alignment) {
    std::vector<TensorEntry*> by_offset;
    for (TensorEntry& entry : entries) {
        const std::string name = "tensor " + gguf_printable(entry.name);
        if (entry.offset % alignment != 0) {
            return broken(name + " lies at byte " + std::to_string(entry.offset) +
                          " of the data, must be a multiple of " + std::to_string(alignment));
        }
        if (entry.offset > data.size() || entry.bytes > data.size() - entry.offset) {
            return broken(name + " has " + std::to_string(entry.bytes) + " bytes at byte " +
                          std::to_string(entry.offset) + " of the data, which ends at " + std::to_string(data.size()));
        }
        entry.tensor.bytes = data.subspan(entry.offset, entry.bytes);
        by_offset.push_back(&entry);
    }
    std::sort(by_offset.begin(), by_offset.end(),
              [](const TensorEntry* a, const TensorEntry* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < by_offset.size(); ++i) {
        const TensorEntry& before = *by_offset[i - 1];
        if (before.offset + before.bytes > by_offset[i]->offset) {
            return broken("tensors " + gguf_printable(before.name) + " and " + gguf_printable(by_offset[i]->name) +
                          " overlap at byte " + std::to_string(by_offset[i]->offset) + " of the data");
        }
    }
    return {};
}

Result<GgufFile> parse_file(std::span<const std::byte> bytes) {
    Reader reader(bytes);
    const auto magic = reader.take(4, "the magic number");
    if (!magic) { return pass_on(magic); }
    if (as_text(*magic) != "GGUF") { return broken("is no GGUF file: it does not begin with \"GGUF\""); }
    GgufFile file;
    const auto version = reader.number<std::uint32_t>("the version");
    if (!version) { return pass_on(version); }
    file.version = *version;
    if (*version != 2 && *version != 3) {
        const bool is_swapped = *version != 0 && (*version & 0xffffu) == 0;
        return fail(ErrorCode::unimplemented,
                    is_swapped ? "is a big-endian file: only little-endian ones are read"
                               : "has version " + std::to_string(*version) + " of the format: only 2 and 3 are read");
    }
    const auto tensors = reader.number<std::uint64_t>("the number of tensors");
    if (!tensors) { return pass_on(tensors); }
    const auto keys = reader.number<std::uint64_t>("the number of keys");
    if (!keys) { return pass_on(keys); }
    if (*tensors > kTensorsMax || *keys > kKeysMax) {
        return broken("says it has " + std::to_string(*tensors) + " tensors and " + std::to_string(*keys) +
                      " keys; at most " + std::to_string(kTensorsMax) + " of either are allowed");
    }
    std::uint64_t items_left = kItemsMax;
    for (std::uint64_t i = 0; i < *keys; ++i) {
        const auto key = reader.text(kKeyBytesMax, "key " + std::to_string(i));
        if (!key) { return pass_on(key); }
        const auto value = read_value(reader, items_left);
        if (!value) { return pass_on(value, "key " + gguf_printable(*key)); }
        if (!file.values.emplace(*key, *value).second) {
            return broken("key " + gguf_printable(*key) + " stands twice");
        }
    }
    std::vector<TensorEntry> entries;
    for (std::uint64_t i = 0; i < *tensors; ++i) {
        TensorEntry& entry = entries.emplace_back();
        const auto name = reader.text(kTensorNameBytesMax, "the name of tensor " + std::to_string(i));
        if (!name) { return pass_on(name); }
        entry.name = *name;
        if (auto read = read_tensor(reader, entry); !read) {
            return pass_on(read, "tensor " + gguf_printable(entry.name));
        }
    }
    const auto alignment = alignment_of(file);
    if (!alignment) { return pass_on(alignment); }
    const std::uint64_t begin = (reader.position() + *alignment - 1) / *alignment * *alignment;
    const std::span<const std::byte> data = begin < bytes.size() ? bytes.subspan(begin) : std::span<const std::byte>();
    if (auto placed = place_tensors(entries, data, *alignment); !placed) { return pass_on(placed); }
    for (TensorEntry& entry : entries) {
        if (!file.tensors.emplace(entry.name, std::move(entry.tensor)).second) {
            return broken("tensor " + gguf_printable(entry.name) + " stands twice");
        }
    }
    return file;
}

}  // namespace

std::optional<std::int64_t> GgufValue::integer() const {
    return integer_at(type_, bytes_.data());
}

std::optional<double> GgufValue::number() const {
    std::optional<double> found;
    visit_number(type_, bytes_.data(), [&](auto value) { found = static_cast<double>(value); });
    return found;
}

std::optional<bool> GgufValue::boolean() const {
    if (type_ != GgufType::boolean) { return std::nullopt; }
    return bytes_[0] != std::byte{0};
}

std::optional<std::string_view> GgufValue::string() const {
    if (type_ != GgufType::string) { return std::nullopt; }
    return as_text(bytes_);
}

std::optional<std::vector<std::int64_t>> GgufValue::integers() const {
    if (type_ != GgufType::array) { return std::nullopt; }
    std::vector<std::int64_t> numbers;
    const std::uint64_t size = scalar_bytes(item_type_);
    for (std::uint64_t i = 0; i < count_; ++i) {
        const auto number = integer_at(item_type_, bytes_.data() + i * size);
        if (!number) { return std::nullopt; }
        numbers.push_back(*number);
    }
    return numbers;
}

std::optional<std::vector<std::string_view>> GgufValue::strings() const {
    if (type_ != GgufType::array || item_type_ != GgufType::string) { return std::nullopt; }
    std::vector<std::string_view> texts;
    texts.reserve(count_);
    const std::byte* at = bytes_.data();
    for (std::uint64_t i = 0; i < count_; ++i) {
        const auto size = load<std::uint64_t>(at);
        texts.emplace_back(reinterpret_cast<const char*>(at) + 8, size);
        at += 8 + size;
    }
    return texts;
}

std::string GgufValue::shown() const {
    if (const auto text = string()) { return "\"" + gguf_printable(*text) + "\""; }
    if (const auto flag = boolean()) { return *flag ? "true" : "false"; }
    if (type_ == GgufType::array) { return "an array of " + std::to_string(count_); }
    std::string text;
    visit_number(type_, bytes_.data(), [&](auto value) {
        if constexpr (std::is_integral_v<decltype(value)>) {
            text = std::to_string(value);
        } else {
            char buffer[32];
            std::snprintf(buffer, sizeof buffer, "%.9g", static_cast<double>(value));
            text = buffer;
        }
    });
    return text;
}

const GgufTensorType* gguf_tensor_type(std::uint32_t number) {
    const auto* found = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                     [number](const GgufTensorType& type) { return type.number == number; });
    return found == std::end(kTensorTypes) ? nullptr : found;
}

std::string gguf_printable(std::string_view text) {
    std::string shown(text.substr(0, 200));
    std::replace_if(shown.begin(), shown.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }, '?');
    return shown;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> file, std::string_view file_name) {
    auto parsed = parse_file(file);
    if (!parsed) { return pass_on(parsed, file_name); }
    return parsed;
}

const GgufValue* GgufFile::find(std::string_view key) const {
    const auto found = values.find(key);
    return found == values.end() ? nullptr : &found->second;
}

}  // namespace base
