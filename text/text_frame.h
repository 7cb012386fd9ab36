#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace text {

/// What is asked of a text process; of its first process (the host) or of one that it forked.
enum class TextOp : std::uint32_t {
    setup,          // parts: TextHostLimits. The first frame
    load,           // number: SLUICE_HUGGING_FACE_JSON, ...; parts: first, second, options_json
    load_gguf,      // parts: model, pre, tokens, merges, scores, types, and TextGgufNumbers
    compile,        // parts: source, SluiceTemplateLimits; the answer's number: the template's
    fork,           // carries a socket, at which the new process answers; the answer's number: its id
    end,            // number: id of a forked process; it is killed; the answer's number: its status as of waitpid()
    encode,         // number: flags; parts: text, text_starts (size_t), the most ids to give (uint64_t; 0: no matter)
    token_id,       // parts: the token; the answer's number: its id, or -1
    render,         // number: the template's; parts: context_json, SluiceCivilTime
    render_source,  // parts: source, SluiceTemplateLimits, context_json, SluiceCivilTime; a template for this one call.
                    // The answer's number: 1, unless it did not compile
    grammar,        // number: SLUICE_GRAMMAR_JSON_SCHEMA, ...; parts: the grammar, which is checked
};

/// The numbers of SluiceGgufVocabulary.
struct TextGgufNumbers {
    std::int64_t bos, eos, unknown;
    std::int32_t adds_bos, adds_eos, adds_space;
};

/// The numbers of SluiceTokenTable.
struct TextTableNumbers {
    std::int64_t bos, eos;
    std::uint64_t text_bytes_per_token;
    std::int32_t first_rule;
    std::uint32_t leading_spaces;
    std::int32_t replaces_each_byte;
};

/// Bounds of a text process.
struct TextHostLimits {
    std::uint64_t load_memory_bytes;  // address space of the host above what it starts with
    std::uint64_t call_memory_bytes;  // the same of a forked process above what it is forked with
    std::uint64_t stack_bytes;
    std::uint64_t load_cpu_us;     // of one load
    std::uint64_t call_cpu_us;     // of one compile, encode, token_id or render
    std::uint64_t grammar_cpu_us;  // of one grammar
};

/// Between the two sides of one machine: native byte order, one request and one answer at a time.
struct TextFrameHead {
    static constexpr std::size_t kPartsMax = 8;
    std::uint32_t kind = 0;  // TextOp, or SLUICE_OK, ... in an answer (then the only part is the message)
    std::uint32_t parts = 0;
    std::int64_t number = 0;
    std::array<std::uint64_t, kPartsMax> sizes = {};
};

class TextFrame {
public:
    TextFrameHead head;
    /// Empty where the frame has no such part. Borrowed from the frame.
    std::string_view part(std::size_t index) const;
    /// The bytes of a part as a value; false when its size is another one.
    template <class Value>
    bool read(std::size_t index, Value& value) const {
        const std::string_view bytes = part(index);
        if (bytes.size() != sizeof(Value)) { return false; }
        bytes.copy(reinterpret_cast<char*>(&value), sizeof(Value));
        return true;
    }

    /// Makes it an answer of one part.
    void set_message(std::string message) {
        body_ = std::move(message);
        head = {.parts = 1, .sizes = {body_.size()}};
    }

private:
    friend bool receive_frame(int, TextFrame&, std::uint64_t, int*);
    std::string body_;
};

/// The bytes of a value, as a part. Borrowed.
template <class Value>
std::string_view bytes_of(const Value& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(Value)};
}

/// Sends one frame over a Unix stream socket, with a descriptor when that is not negative. False: errno says why.
bool send_frame(int socket, std::uint32_t kind, std::int64_t number, std::span<const std::string_view> parts,
                int descriptor = -1);

/// Receives one frame; `descriptor`, where it is asked for, gets the one that came along, or -1. False when the other
/// side is gone (errno 0), the frame makes no sense or has more than `bytes_max` bytes (EMSGSIZE), or as recv() fails.
bool receive_frame(int socket, TextFrame& frame, std::uint64_t bytes_max, int* descriptor = nullptr);

}  // namespace text
