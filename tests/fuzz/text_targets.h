#pragma once
// What the fuzzers of chat templates and tokenizers do with one input, through the C interface: whatever the bytes are,
// an entry gives a code and a message and never ends the process by itself. Also run over the corpora by
// text_fuzz_tests.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "text/shim/sluice_text.h"

namespace fuzz {

inline SluiceBytes bytes_of(std::string_view text) {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

/// Owns an answer. A panic is a finding: it is contained, but somebody should know.
class Answer {
public:
    ~Answer() { sluice_buffer_free(&buffer); }
    void check(std::int32_t code) const {
        if (code < SLUICE_OK || code >= SLUICE_PANICKED) { std::abort(); }
        if (code != SLUICE_OK && buffer.size == 0 && code != SLUICE_RAISED) { std::abort(); }
    }
    SluiceBuffer buffer{nullptr, 0, 0};
};

/// The source of a template, rendered with fixed messages.
inline void chat_template(std::string_view source) {
    SluiceTemplate* compiled = nullptr;
    const SluiceTemplateLimits limits{.fuel = 5'000, .output_bytes = 1 << 16, .recursion = 50};
    {
        Answer answer;
        const std::int32_t code = sluice_template_compile(bytes_of(source), limits, &compiled, &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { return; }
    }
    constexpr std::string_view kContext =
        R"({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello é"},)"
        R"({"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function":)"
        R"({"name": "f", "arguments": {"a": [1, 2.5, true]}}}]}, {"role": "tool", "content": "4"}],)"
        R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],)"
        R"("add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"})";
    const SluiceCivilTime now{
        .year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9, .microsecond = 1};
    Answer answer;
    answer.check(sluice_template_render(compiled, bytes_of(kContext), now, &answer.buffer));
    sluice_template_free(compiled);
}

/// The first byte: kind of file and flags; then a tokenizer's file up to the first zero byte, then a text.
inline void tokenizer(std::string_view input) {
    if (input.empty()) { return; }
    const auto choice = static_cast<unsigned char>(input.front());
    input.remove_prefix(1);
    const std::size_t split = input.find('\0');
    const std::string_view file = input.substr(0, split);
    const std::string_view text = split == std::string_view::npos ? std::string_view() : input.substr(split + 1);
    SluiceTokenizer* loaded = nullptr;
    {
        Answer answer;
        const std::int32_t code = sluice_tokenizer_load(choice % 6, bytes_of(file), bytes_of(text),
                                                        bytes_of(R"({"pattern": "qwen2"})"), &loaded, &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { return; }
    }
    SluiceTokenTable table{};
    sluice_tokenizer_table(loaded, &table);
    if (table.tokens > 0 && table.offsets[0] != 0) { std::abort(); }
    for (std::size_t token = 0; token < table.tokens; ++token) {
        if (table.offsets[token] > table.offsets[token + 1]) { std::abort(); }
    }
    for (const std::string_view words : {text, std::string_view("Once upon a time, 日本 <s> 123\n   ab")}) {
        for (const std::size_t starts : {std::size_t{0}, std::size_t{1}}) {
            const std::size_t start = 2;
            Answer answer;
            const std::int32_t code =
                sluice_tokenizer_encode(loaded, bytes_of(words), &start, starts, choice / 6u % 4u, &answer.buffer);
            answer.check(code);
            if (code != SLUICE_OK) { continue; }
            const std::size_t ids = answer.buffer.size / sizeof(std::uint32_t);
            for (std::size_t at = 0; at < ids; ++at) {
                std::uint32_t id = 0;
                std::memcpy(&id, answer.buffer.data + at * sizeof(id), sizeof(id));
                if (id >= table.tokens) { std::abort(); }  // the table has a text for every id
            }
            if (table.text_bytes_per_token > 0 && ids * table.text_bytes_per_token < words.size()) { std::abort(); }
        }
    }
    sluice_tokenizer_free(loaded);
}

}  // namespace fuzz
