#pragma once

#include <array>
#include <string_view>

namespace caching {

/// What two answers have in common, and what not.
struct AnswerEvidence {
    double missing = 0;      // share of the shorter one's content words that the longer one has not
    double length = 0;       // log2 of how much longer one is, in content words
    double identifiers = 0;  // 1: these are not the same in both
    double names = 0;        // 1: a name of one is nowhere in the other
    double swapped = 0;      // 1: but for one place both are the same, and there each has words of its own
    /// Numbers, words of time, an opposite, a negation, the order around "to", "from", "than", or operators and
    /// brackets are not the same in both.
    bool contradicts = false;
};

constexpr std::size_t kJudgeTerms = 6;

std::array<double, kJudgeTerms> terms_of(const AnswerEvidence& evidence);

struct AnswerJudgement {
    bool same = false;
    double probability = 0;  // of saying the same; 0 where it was not weighed
    AnswerEvidence evidence;
};

/// Judges whether two answers say the same, without a model: equal words do; else a logistic form over the evidence,
/// learnt from pairs (scripts/make-answer-pairs), where nothing critical contradicts. Made to be wrong seldom where it
/// says yes; where it does not, it does not know. docs/caching.md has its errors on pairs that it was not learnt from.
/// Answers of more than 256 words say the same only where their texts are the same but for blanks. Pure; symmetric.
AnswerJudgement judge_answers(std::string_view one, std::string_view other);

}  // namespace caching
