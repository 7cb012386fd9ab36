#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "caching/semantic/embedder.h"
#include "caching/semantic/text_profile.h"

namespace caching {

/// What the cache does with one kind of question. The numbers are starting points; what is served follows the budget.
struct CategoryPolicy {
    std::string name;
    bool semantic = true;                 // false: equal questions only
    double error_target = 0.004;          // wrong by likeness, of all answers served
    Gates gates = kAllGates;              // that keep an answer back; the others are evidence
    double similarity_min = 0.5;          // nothing below it is ever served, however sure the calibration
    std::int64_t ttl_ms = 86'400'000;     // of a new answer
    std::int64_t ttl_longest_ms = 0;      // of one that was the same when it was generated again; 0: ttl_ms
    double ttl_growth = 1.0;              // more of its time that an answer is served for under full load
    double quota_share = 1.0;             // of the cache's bytes
    std::vector<std::string> prototypes;  // questions of this kind, for categories of the operator's own
};

/// support, code, maths, general, volatile; in the order of the classifier.
constexpr std::size_t kBuiltInCategories = 5;
constexpr std::size_t kGeneral = 3;
constexpr std::size_t kVolatile = 4;
constexpr std::size_t kCategoriesMost = 64;
std::vector<CategoryPolicy> default_policies();

/// Which kind a question is: the built-in kinds by a linear form over the hashed features, learnt from labelled
/// questions (docs/caching.md); an operator's kinds by the nearest prototype, where one is near enough.
class CategoryClassifier {
public:
    CategoryClassifier(std::span<const CategoryPolicy> policies, const HashedEmbedder& embedder);

    /// Index into the policies.
    std::size_t classify(std::string_view text) const;
    std::array<double, kBuiltInCategories> probabilities(std::string_view text) const;

private:
    struct Prototype {
        std::size_t category;
        std::vector<float> vector;
    };
    const HashedEmbedder& embedder_;
    std::vector<Prototype> prototypes_;
};

}  // namespace caching
