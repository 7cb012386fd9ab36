#include "caching/semantic/question.h"

#include <span>

#include "caching/semantic/words.h"

namespace caching {
namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/// A run of 13 to 19 digits, blanks and dashes between, that passes Luhn's check.
bool names_card(std::string_view text) {
    std::string digits;
    for (std::size_t i = 0; i <= text.size(); ++i) {
        const char c = i < text.size() ? text[i] : 'x';
        if (is_digit(c)) {
            digits += c;
        } else if (digits.empty() || (c != ' ' && c != '-')) {
            if (digits.size() >= 13 && digits.size() <= 19) {
                int sum = 0;
                for (std::size_t at = 0; at < digits.size(); ++at) {
                    int value = digits[digits.size() - 1 - at] - '0';
                    if (at % 2 == 1) { value = value * 2 > 9 ? value * 2 - 9 : value * 2; }
                    sum += value;
                }
                if (sum % 10 == 0) { return true; }
            }
            digits.clear();
        }
    }
    return false;
}

bool names_mail(std::string_view text) {
    for (std::size_t at = text.find('@'); at != std::string_view::npos; at = text.find('@', at + 1)) {
        const auto is_word = [](char c) {
            return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-';
        };
        if (at == 0 || !is_word(text[at - 1])) { continue; }
        std::size_t end = at + 1;
        std::size_t dots = 0;
        while (end < text.size() && (is_word(text[end]) || text[end] == '.')) {
            dots += text[end] == '.' && end + 1 < text.size() && is_word(text[end + 1]) ? 1 : 0;
            ++end;
        }
        if (dots > 0) { return true; }
    }
    return false;
}

/// Every field with its length in front: no two lists of fields have the same bytes.
void add_field(std::string& bytes, std::string_view field) {
    bytes += std::to_string(field.size());
    bytes += ':';
    bytes += field;
}

}  // namespace

const char* reason_name(Uncacheable reason) {
    switch (reason) {
        case Uncacheable::none:
            return "none";
        case Uncacheable::no_store:
            return "no-store";
        case Uncacheable::empty:
            return "empty";
        case Uncacheable::temperature:
            return "temperature";
        case Uncacheable::choices:
            return "several-choices";
        case Uncacheable::logprobs:
            return "logprobs";
        case Uncacheable::tools:
            return "tools";
        case Uncacheable::files:
            return "files";
        case Uncacheable::agent:
            return "agent-loop";
        case Uncacheable::personal:
            return "personal";
    }
    return "none";
}

Uncacheable why_not(const Question& question, const CacheRules& rules) {
    if (question.no_store) { return Uncacheable::no_store; }
    if (question.messages.empty()) { return Uncacheable::empty; }
    if (question.temperature > 0 && !rules.allow_temperature) { return Uncacheable::temperature; }
    if (question.choices > 1) { return Uncacheable::choices; }
    if (question.logprobs) { return Uncacheable::logprobs; }
    if (!question.tools.empty() && !rules.allow_tools) { return Uncacheable::tools; }
    if (question.has_files) { return Uncacheable::files; }
    for (const Message& message : question.messages) {
        if (message.role == "tool" || message.role == "function") { return Uncacheable::agent; }
        if (!rules.allow_personal && is_personal(message.content)) { return Uncacheable::personal; }
    }
    return Uncacheable::none;
}

bool is_personal(std::string_view text) {
    return names_mail(text) || names_card(text);
}

QuestionKeys keys_of(const Question& question, std::string_view embedder, const base::HashKey& key) {
    std::string bytes;
    for (const std::string_view field :
         {std::string_view("sluice semantic cache 1"), embedder, std::string_view(question.tenant),
          std::string_view(question.user), std::string_view(question.model), std::string_view(question.revision),
          std::string_view(question.adapter), std::string_view(question.parameters),
          std::string_view(question.response_format), std::string_view(question.tools)}) {
        add_field(bytes, field);
    }
    const std::string_view text = asked(question);
    const std::size_t earlier = question.messages.size() - (text.data() != nullptr ? 1 : 0);
    for (std::size_t i = 0; i < earlier; ++i) {
        add_field(bytes, question.messages[i].role);
        const Message& turn = question.messages[i];
        add_field(bytes, turn.role == "user" ? canonical_turn(turn.content) : canonical_text(turn.content));
    }
    QuestionKeys keys;
    keys.partition = base::keyed_hash(key, std::as_bytes(std::span(bytes)));
    add_field(bytes, "asked");
    add_field(bytes, canonical_text(text));
    keys.exact = base::keyed_hash(key, std::as_bytes(std::span(bytes)));
    return keys;
}

std::string_view asked(const Question& question) {
    if (question.messages.empty() || question.messages.back().role != "user") { return {}; }
    return question.messages.back().content;
}

}  // namespace caching
