#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace caching {

/// What neighbours say together. Each counts for what it adds to the others: ten near copies of one question are not
/// ten voices, and one that lies behind another adds nothing to it.
struct JointVote {
    double mine = 0;         // for the candidate's answer: near 1 where its questions surround the asked one
    double lead = 0;         // so much more than the next answer has
    double unexplained = 1;  // of the asked question, by all of them: 1 where nothing is near
    double first = 0;        // 1: no other answer has more
};

/// `among`: cosines of n neighbours with each other, row by row; `to_question`: with the asked question; `answers`: of
/// the neighbours, `candidate` the one that is looked at. Takes n * n * n / 6 steps.
/// Source: regression by a Gaussian process (Rasmussen and Williams 2006, 2.2), of the answers' indicators, over the
/// neighbours alone.
JointVote joint_vote(std::span<const float> among, std::span<const float> to_question,
                     std::span<const std::uint64_t> answers, std::uint64_t candidate);

}  // namespace caching
