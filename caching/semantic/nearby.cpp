#include "caching/semantic/nearby.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kVoting = 5;    // Evidence::support
constexpr std::size_t kAveraged = 3;  // Evidence::mean
constexpr double kVoteReach = 0.05;   // of similarity: so far from the nearest a vote has lost a factor e
constexpr double kRivalLeast = 0.2;   // where no other answer is stored, nothing is known of rivals

double vote_of(const std::vector<Nearby>& near, const Nearby& one) {
    return std::exp((one.similarity - near.front().similarity) / kVoteReach);
}

double votes_for(const std::vector<Nearby>& near, std::uint64_t meaning) {
    double votes = 0;
    for (const Nearby& one : near) {
        votes += one.meaning == meaning ? vote_of(near, one) : 0.0;
    }
    return votes;
}

}  // namespace

std::vector<std::uint64_t> likely_meanings(const std::vector<Nearby>& near) {
    if (near.empty()) { return {}; }
    std::vector<std::uint64_t> likely{near.front().meaning};
    double most = votes_for(near, likely.front());
    std::uint64_t best = likely.front();
    for (const Nearby& one : near) {
        if (one.meaning == best) { continue; }
        if (const double votes = votes_for(near, one.meaning); votes > most) {
            most = votes;
            best = one.meaning;
        }
    }
    if (best != likely.front()) { likely.push_back(best); }
    return likely;
}

const Nearby& nearest_of(const std::vector<Nearby>& near, std::uint64_t meaning) {
    const auto found =
        std::find_if(near.begin(), near.end(), [&](const Nearby& one) { return one.meaning == meaning; });
    CHECK(found != near.end());
    return *found;
}

Evidence evidence_of(const std::vector<Nearby>& near, std::uint64_t meaning) {
    const Nearby& nearest = nearest_of(near, meaning);
    Evidence evidence;
    evidence.similarity = nearest.similarity;
    evidence.apart = nearest.apart;
    double sum = 0;
    double all_votes = 0;
    std::size_t averaged = 0;
    std::size_t voters = 0;
    std::size_t support = 0;
    for (const Nearby& one : near) {
        const bool same = one.meaning == meaning;
        all_votes += vote_of(near, one);
        if (voters < kVoting) {
            ++voters;
            support += same ? 1 : 0;
        }
        if (same && averaged < kAveraged) {
            sum += one.similarity;
            ++averaged;
        }
        if (!same && evidence.rival == 0) {
            evidence.rival = one.similarity;
            evidence.rival_apart = one.apart;
        }
    }
    const double missing = static_cast<double>(kAveraged - averaged) * std::max(evidence.rival, kRivalLeast);
    evidence.mean = (sum + missing) / static_cast<double>(kAveraged);
    evidence.support = static_cast<double>(support) / static_cast<double>(voters);
    evidence.vote = votes_for(near, meaning) / all_votes;
    return evidence;
}

}  // namespace caching
