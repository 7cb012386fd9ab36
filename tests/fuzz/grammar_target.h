#pragma once
// What the fuzzer of schemas and grammars does with one input, through the C interface. Also run over the corpus by
// text_fuzz_tests.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/text_targets.h"

namespace fuzz {

/// A vocabulary of all bytes, pairs of letters that JSON is full of, and an end; with a tokenizer that cuts well, not
/// at all, or into what the text is not.
class GrammarWords {
public:
    enum class Cut { well, never, wrongly };

    explicit GrammarWords(Cut cut) : cut_(cut) {
        for (unsigned byte = 0; byte < 256; ++byte) {
            add(std::string(1, static_cast<char>(byte)));
        }
        for (const char first : kLetters) {
            for (const char second : kLetters) {
                add({first, second});
            }
        }
        add("</s>");
        flags_.back() = SLUICE_TOKEN_SPECIAL;
        const std::uint32_t end = size() - 1;
        const SluiceTokens tokens{.tokens = flags_.size(),
                                  .bytes = reinterpret_cast<const std::uint8_t*>(bytes_.data()),
                                  .offsets = offsets_.data(),
                                  .flags = flags_.data(),
                                  .vocabulary = size(),
                                  .eos = &end,
                                  .eos_count = 1};
        const SluiceCutter cutter{.context = this, .cut = &GrammarWords::cut, .release = [](const void*) {}};
        Answer answer;
        if (sluice_vocabulary_new(&tokens, &cutter, &vocabulary_, &answer.buffer) != SLUICE_OK) { std::abort(); }
    }
    ~GrammarWords() { sluice_vocabulary_free(vocabulary_); }
    GrammarWords(const GrammarWords&) = delete;
    GrammarWords& operator=(const GrammarWords&) = delete;

    std::uint32_t size() const { return static_cast<std::uint32_t>(flags_.size()); }
    const SluiceVocabulary* vocabulary() const { return vocabulary_; }

private:
    static constexpr std::string_view kLetters = "{}[]\":, aeinrst01";

    void add(const std::string& word) {
        bytes_ += word;
        offsets_.push_back(static_cast<std::uint32_t>(bytes_.size()));
        flags_.push_back(0);
    }

    static std::ptrdiff_t cut(const void* context, const std::uint8_t* text, std::size_t bytes, std::uint32_t* out,
                              std::size_t most) {
        const Cut how = static_cast<const GrammarWords*>(context)->cut_;
        if (how == Cut::never) { return bytes % 2 == 0 ? -1 : static_cast<std::ptrdiff_t>(most) + 1; }
        std::size_t count = 0;
        for (std::size_t at = 0; at < bytes && count < most;) {
            const auto letter = [&](std::size_t index) { return kLetters.find(static_cast<char>(text[index])); };
            const bool is_pair =
                at + 1 < bytes && letter(at) != std::string_view::npos && letter(at + 1) != std::string_view::npos;
            out[count++] =
                is_pair ? static_cast<std::uint32_t>(256 + letter(at) * kLetters.size() + letter(at + 1)) : text[at];
            at += is_pair ? 2 : 1;
        }
        if (how == Cut::wrongly && count > 0) { out[count / 2] = static_cast<std::uint32_t>(count * 2654435761U); }
        return static_cast<std::ptrdiff_t>(count);
    }

    const Cut cut_;
    std::string bytes_;
    std::vector<std::uint32_t> offsets_{0};
    std::vector<std::uint8_t> flags_;
    SluiceVocabulary* vocabulary_ = nullptr;
};

/// The answer of a model that knows nothing, as a worker makes it: what is forced comes as it is, and is what the mask
/// allows.
inline void walk(const GrammarWords& words, std::int32_t kind, std::string_view source) {
    constexpr int kSteps = 24;
    SluiceGrammar* grammar = nullptr;
    {
        Answer answer;
        const std::int32_t code =
            sluice_grammar_compile(words.vocabulary(), kind, bytes_of(source), &grammar, &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { return; }
    }
    SluiceMatcher* matcher = nullptr;
    {
        Answer answer;
        const std::int32_t code = sluice_matcher_new(grammar, &matcher, &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { std::abort(); }
    }
    sluice_grammar_free(grammar);
    std::uint32_t chance = static_cast<std::uint32_t>(source.size());
    std::vector<std::uint32_t> mask((words.size() + 31) / 32);
    for (int step = 0; step < kSteps; ++step) {
        std::vector<std::uint32_t> next;
        {
            Answer answer;
            if (sluice_matcher_forced(matcher, &answer.buffer) != SLUICE_OK) { std::abort(); }
            next.resize(answer.buffer.size / sizeof(std::uint32_t));
            if (!next.empty()) { std::memcpy(next.data(), answer.buffer.data, answer.buffer.size); }
        }
        Answer answer;
        const std::int32_t code = sluice_matcher_mask(matcher, mask.data(), mask.size(), &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { break; }
        std::vector<std::uint32_t> allowed;
        for (std::uint32_t token = 0; token < words.size(); ++token) {
            if ((mask[token / 32] >> (token % 32) & 1U) != 0) { allowed.push_back(token); }
        }
        if (allowed.empty()) { std::abort(); }
        if (next.empty()) {
            chance = chance * 1664525U + 1013904223U;
            next.push_back(allowed[(chance >> 8) % allowed.size()]);
        } else if (allowed != std::vector<std::uint32_t>{next.front()}) {
            std::abort();
        }
        if (next.front() == words.size() - 1) { break; }
        Answer said;
        if (sluice_matcher_consume(matcher, next.data(), next.size(), &said.buffer) != SLUICE_OK) { std::abort(); }
    }
    sluice_matcher_free(matcher);
}

/// The first byte: the kind of a grammar, and how the tokenizer cuts; then its source. First as a gateway checks it;
/// what passes is then gone through as a worker does.
inline void grammar(std::string_view input) {
    if (input.empty()) { return; }
    static const std::array<GrammarWords, 3> words{GrammarWords(GrammarWords::Cut::well),
                                                   GrammarWords(GrammarWords::Cut::never),
                                                   GrammarWords(GrammarWords::Cut::wrongly)};
    const auto choice = static_cast<unsigned char>(input.front());
    const std::int32_t kind = choice % 5;
    input.remove_prefix(1);
    {
        Answer answer;
        const std::int32_t code = sluice_grammar_check(kind, bytes_of(input), &answer.buffer);
        answer.check(code);
        if (code != SLUICE_OK) { return; }
    }
    walk(words[choice / 5 % words.size()], kind, input);
}

}  // namespace fuzz
