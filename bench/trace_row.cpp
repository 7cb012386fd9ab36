#include "bench/trace_row.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <utility>

namespace bench {
namespace {

/// Ids that follow each other become one run.
void add_block(TraceRow& row, std::uint64_t id) {
    if (!row.blocks.empty() && row.blocks.back().first + row.blocks.back().count == id) {
        ++row.blocks.back().count;
    } else {
        row.blocks.push_back({id, 1});
    }
}

std::optional<std::uint32_t> block_tokens_of(double tokens) {
    if (!(tokens >= 1 && tokens <= 1 << 20)) { return std::nullopt; }
    return static_cast<std::uint32_t>(tokens);
}

/// Of JSON what rows of a trace consist of: names, numbers without sign and exponent, signs between them.
class PlainReader {
public:
    explicit PlainReader(std::string_view text) : at_(text.data()), end_(at_ + text.size()) {}

    bool take(char wanted) {
        skip_spaces();
        if (at_ == end_ || *at_ != wanted) { return false; }
        ++at_;
        return true;
    }
    bool is_at_end() {
        skip_spaces();
        return at_ == end_;
    }
    /// Empty, like the next: it is something else.
    std::optional<std::string_view> name() {
        if (!take('"')) { return std::nullopt; }
        const char* const begin = at_;
        while (at_ != end_ && *at_ >= ' ' && *at_ <= '~' && *at_ != '"' && *at_ != '\\') {
            ++at_;
        }
        const std::string_view name(begin, static_cast<std::size_t>(at_ - begin));
        if (at_ == end_ || *at_ != '"') { return std::nullopt; }
        ++at_;
        return name;
    }
    struct Number {
        std::uint64_t digits = 0;
        std::size_t decimals = 0;  // of them
        /// As exact as a double can be: neither number is rounded before.
        double value() const { return static_cast<double>(digits) / kPowers[decimals]; }
    };
    std::optional<Number> number() {
        skip_spaces();
        const char* const begin = at_;
        Number number;
        const std::size_t whole = read_digits(number.digits);
        if (whole == 0 || (whole > 1 && *begin == '0')) { return std::nullopt; }
        if (at_ != end_ && *at_ == '.') {
            ++at_;
            number.decimals = read_digits(number.digits);
            if (number.decimals == 0) { return std::nullopt; }
        }
        const bool goes_on = at_ != end_ && (*at_ == 'e' || *at_ == 'E');
        return goes_on || whole + number.decimals >= kPowers.size() ? std::nullopt : std::optional(number);
    }

private:
    static constexpr std::array kPowers{1e0, 1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                        1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    void skip_spaces() {
        while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r' || *at_ == '\n')) {
            ++at_;
        }
    }
    std::size_t read_digits(std::uint64_t& number) {
        const char* const begin = at_;
        for (; at_ != end_ && *at_ >= '0' && *at_ <= '9'; ++at_) {
            number = number * 10 + static_cast<std::uint64_t>(*at_ - '0');
        }
        return static_cast<std::size_t>(at_ - begin);
    }

    const char* at_;
    const char* end_;
};

bool read_ids(PlainReader& reader, TraceRow& row) {
    if (!reader.take('[')) { return false; }
    if (reader.take(']')) { return true; }
    do {
        const auto id = reader.number();
        if (!id || id->decimals > 0) { return false; }
        add_block(row, id->digits);
    } while (reader.take(','));
    return reader.take(']');
}

/// As json_row() of a row as they nearly all are, without building a tree of it: a trace has millions. Empty: it is
/// something else, or no row.
std::optional<TraceRow> plain_row(std::string_view line, bool with_blocks) {
    struct Field {
        std::string_view name;
        double value = 0;
        bool is_there = false;
    };
    std::array fields{Field{"timestamp"}, Field{"input_length"}, Field{"output_length"},
                      Field{"block_tokens", kTraceBlockTokens}};
    TraceRow row;
    bool has_ids = false;
    PlainReader reader(line);
    if (!reader.take('{')) { return std::nullopt; }
    do {
        const auto name = reader.name();
        if (!name || !reader.take(':')) { return std::nullopt; }
        if (*name == "hash_ids") {
            if (std::exchange(has_ids, true) || !read_ids(reader, row)) { return std::nullopt; }
            continue;
        }
        const auto field =
            std::find_if(fields.begin(), fields.end(), [&](const Field& one) { return one.name == *name; });
        if (field == fields.end() || std::exchange(field->is_there, true)) { return std::nullopt; }
        const auto number = reader.number();
        if (!number) { return std::nullopt; }
        field->value = number->value();
    } while (reader.take(','));
    const bool is_row = fields[0].is_there && fields[1].is_there && fields[2].is_there;
    if (!reader.take('}') || !reader.is_at_end() || !is_row) { return std::nullopt; }
    row.arrival_s = fields[0].value / 1e3;
    row.prompt_tokens = fields[1].value;
    row.output_tokens = fields[2].value;
    if (!with_blocks || !has_ids) {
        row.blocks.clear();
        return row;
    }
    const auto tokens = block_tokens_of(fields[3].value);
    if (!tokens) { return std::nullopt; }
    row.block_tokens = *tokens;
    return row;
}

std::optional<double> number_field(const boost::json::object& row, const char* name) {
    const boost::json::value* value = row.if_contains(name);
    if (value == nullptr || !value->is_number()) { return std::nullopt; }
    if (value->is_int64()) { return static_cast<double>(value->get_int64()); }
    if (value->is_uint64()) { return static_cast<double>(value->get_uint64()); }
    return value->get_double();
}

/// False: something is no id.
bool read_blocks(const boost::json::object& object, TraceRow& row) {
    const boost::json::value* ids = object.if_contains("hash_ids");
    if (ids == nullptr) { return true; }
    if (!ids->is_array()) { return false; }
    const auto tokens = block_tokens_of(number_field(object, "block_tokens").value_or(kTraceBlockTokens));
    if (!tokens) { return false; }
    row.block_tokens = *tokens;
    for (const boost::json::value& value : ids->get_array()) {
        boost::system::error_code error;
        const auto id = value.to_number<std::uint64_t>(error);
        if (error) { return false; }
        add_block(row, id);
    }
    return true;
}

/// Of a row that has been read: a trace has millions.
constexpr std::size_t kRowBytesUsual = 4096;

std::optional<TraceRow> parsed_row(std::string_view line, bool with_blocks) {
    boost::system::error_code error;
    std::array<unsigned char, kRowBytesUsual> memory;  // longer rows take more, from the heap
    boost::json::monotonic_resource resource(memory.data(), memory.size());
    const boost::json::value value = boost::json::parse(line, error, &resource);
    if (error || !value.is_object()) { return std::nullopt; }
    const auto timestamp_ms = number_field(value.get_object(), "timestamp");
    const auto prompt_tokens = number_field(value.get_object(), "input_length");
    const auto output_tokens = number_field(value.get_object(), "output_length");
    if (!timestamp_ms || !prompt_tokens || !output_tokens) { return std::nullopt; }
    TraceRow row{*timestamp_ms / 1e3, *prompt_tokens, *output_tokens};
    if (with_blocks && !read_blocks(value.get_object(), row)) { return std::nullopt; }
    return row;
}

}  // namespace

std::optional<TraceRow> json_row(std::string_view line, bool with_blocks) {
    if (auto row = plain_row(line, with_blocks)) { return row; }
    return parsed_row(line, with_blocks);
}

}  // namespace bench
