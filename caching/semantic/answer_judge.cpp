#include "caching/semantic/answer_judge.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "caching/semantic/text_profile.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr std::size_t kWordsMost = 256;  // of an answer that is weighed: none of those it was learnt from is longer
constexpr Gates kContradictions = gate_bit(Gate::numbers) | gate_bit(Gate::times) | gate_bit(Gate::poles) |
                                  gate_bit(Gate::negation) | gate_bit(Gate::order);
constexpr double kSameFrom = 0.85;  // on the pairs that it was learnt from, no kind of different ones had 1 % above it
constexpr std::array<double, kJudgeTerms> kWeights = {2.48, -2.03, -2.06, -2.27, -1.74, -1.78};

bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           static_cast<unsigned char>(c) >= 0x80;
}

/// Marks that carry a meaning, in the order of the text: not those of sentences, quotes and headings.
std::string symbols_of(std::string_view text) {
    constexpr std::string_view kAlways = "<>=+/\\|&%$^~{}[]@";
    std::string symbols;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const bool joins = i > 0 && i + 1 < text.size() && is_word(text[i - 1]) && is_word(text[i + 1]);
        const bool leads = i + 1 < text.size() && is_word(text[i + 1]) && (i == 0 || !is_word(text[i - 1]));
        const bool counts = kAlways.find(c) != std::string_view::npos ||
                            (c == '!' && i + 1 < text.size() && text[i + 1] == '=') ||
                            ((c == '*' || c == '_') && joins) || (c == '-' && leads);
        if (counts) { symbols += c; }
    }
    return symbols;
}

double missing_share(const TextProfile& a, const TextProfile& b) {
    std::vector<std::uint32_t> shorter = a.content;
    std::vector<std::uint32_t> longer = b.content;
    if (shorter.size() > longer.size()) { shorter.swap(longer); }
    if (shorter.empty()) { return longer.empty() ? 0.0 : 1.0; }
    std::sort(shorter.begin(), shorter.end());
    std::sort(longer.begin(), longer.end());
    std::vector<std::uint32_t> common;
    std::set_intersection(shorter.begin(), shorter.end(), longer.begin(), longer.end(), std::back_inserter(common));
    return 1.0 - static_cast<double>(common.size()) / static_cast<double>(shorter.size());
}

double differs(const TextProfile& a, const TextProfile& b, Gates gates) {
    return first_conflict(a, b, gates) == Gate::none ? 0.0 : 1.0;
}

/// Without a model nothing tells a synonym from another value there.
bool is_swapped(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) {
    const std::size_t shorter = std::min(a.size(), b.size());
    const std::size_t longer = std::max(a.size(), b.size());
    std::size_t before = 0;
    while (before < shorter && a[before] == b[before]) {
        ++before;
    }
    std::size_t behind = 0;
    while (before + behind < shorter && a[a.size() - 1 - behind] == b[b.size() - 1 - behind]) {
        ++behind;
    }
    const std::size_t same = before + behind;
    return same < shorter && same >= longer - same;
}

}  // namespace

std::array<double, kJudgeTerms> terms_of(const AnswerEvidence& evidence) {
    return {1.0, evidence.missing, evidence.length, evidence.identifiers, evidence.names, evidence.swapped};
}

AnswerJudgement judge_answers(std::string_view one, std::string_view other) {
    AnswerJudgement judgement;
    const std::string symbols_one = symbols_of(one);
    const std::string symbols_other = symbols_of(other);
    const std::vector<std::string> words_one = words_of(one, kWordsMost + 1);
    const std::vector<std::string> words_other = words_of(other, kWordsMost + 1);
    AnswerEvidence& evidence = judgement.evidence;
    const bool is_long = std::max(words_one.size(), words_other.size()) > kWordsMost;
    if (is_long ? canonical_text(one) == canonical_text(other)
                : words_one == words_other && symbols_one == symbols_other) {
        judgement.same = true;
        judgement.probability = 1.0;
        return judgement;
    }
    if (is_long || words_one.empty() || words_other.empty()) { return judgement; }
    const TextProfile a = profile_of(one);
    const TextProfile b = profile_of(other);
    evidence.missing = missing_share(a, b);
    evidence.length = std::abs(
        std::log2((static_cast<double>(a.content.size()) + 1.0) / (static_cast<double>(b.content.size()) + 1.0)));
    evidence.identifiers = differs(a, b, gate_bit(Gate::identifiers));
    evidence.names = differs(a, b, gate_bit(Gate::names));
    evidence.swapped = is_swapped(a.content, b.content) ? 1.0 : 0.0;
    evidence.contradicts = symbols_one != symbols_other || first_conflict(a, b, kContradictions) != Gate::none;
    double x = 0;
    const auto terms = terms_of(evidence);
    for (std::size_t i = 0; i < kJudgeTerms; ++i) {
        x += kWeights[i] * terms[i];
    }
    judgement.probability = 1.0 / (1.0 + std::exp(-std::clamp(x, -30.0, 30.0)));
    judgement.same = !evidence.contradicts && judgement.probability >= kSameFrom;
    return judgement;
}

}  // namespace caching
