#include "caching/semantic/categories.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "caching/semantic/words.h"

// "SLUICEC2", rows, kinds, a float of scale a kind, a float of offset a kind, then int8 [rows, kinds].
asm(".section .rodata\n"
    ".balign 16\n"
    "sluice_caching_categories:\n"
    ".incbin \"" SLUICE_CATEGORIES_FILE
    "\"\n"
    "sluice_caching_categories_end:\n"
    ".previous\n");
extern "C" const std::byte sluice_caching_categories[] __attribute__((visibility("hidden")));
extern "C" const std::byte sluice_caching_categories_end[] __attribute__((visibility("hidden")));

namespace caching {
namespace {

constexpr double kPrototypeNear = 0.6;  // cosine from which on an operator's kind is taken
constexpr double kVolatileFrom = 0.10;  // a stale answer costs more than a second generation

/// Words by which a question says itself that its answer changes.
bool names_now(std::string_view text) {
    constexpr std::array<std::string_view, 10> kNow = {"current", "currently", "latest", "recent",  "recently",
                                                       "now",     "today",     "newest", "tonight", "upcoming"};
    for (const std::string& word : words_of(text)) {
        if (std::find(kNow.begin(), kNow.end(), word) != kNow.end()) { return true; }
    }
    return false;
}

}  // namespace

std::vector<CategoryPolicy> default_policies() {
    constexpr std::int64_t kMinute = 60'000;
    constexpr std::int64_t kDay = 24 * 60 * kMinute;
    std::vector<CategoryPolicy> policies(kBuiltInCategories);
    policies[0].name = "support";
    policies[0].ttl_ms = kDay;
    policies[0].gates = kSupportGates;
    policies[0].error_target = 0.005;
    policies[1].name = "code";
    policies[1].ttl_ms = 7 * kDay;
    policies[1].error_target = 0.002;
    policies[2].name = "maths";
    policies[2].semantic = false;
    policies[2].ttl_ms = 30 * kDay;
    policies[2].quota_share = 0.25;
    policies[3].name = "general";  // some of it changes and does not say so: an answer earns its days
    policies[3].error_target = 0.003;
    policies[3].ttl_ms = 60 * kMinute;
    policies[3].ttl_longest_ms = 7 * kDay;
    policies[4].name = "volatile";
    policies[4].ttl_ms = kMinute;
    policies[4].ttl_growth = 0;
    policies[4].quota_share = 0.1;
    return policies;
}

CategoryClassifier::CategoryClassifier(std::span<const CategoryPolicy> policies, const HashedEmbedder& embedder)
    : embedder_(embedder) {
    CHECK(policies.size() >= kBuiltInCategories);
    for (std::size_t category = 0; category < policies.size(); ++category) {
        for (const std::string& text : policies[category].prototypes) {
            prototypes_.push_back({category, embedder.embed_one(text)});
        }
    }
}

std::array<double, kBuiltInCategories> CategoryClassifier::probabilities(std::string_view text) const {
    const std::span<const std::byte> file(sluice_caching_categories, sluice_caching_categories_end);
    std::uint32_t rows = 0;
    std::uint32_t kinds = 0;
    std::array<float, kBuiltInCategories> scales{};
    std::array<float, kBuiltInCategories> offsets{};
    constexpr std::size_t kHeader = 8 + 4 + 4 + sizeof(scales) + sizeof(offsets);
    CHECK(file.size() > kHeader && std::memcmp(file.data(), "SLUICEC2", 8) == 0);
    std::memcpy(&rows, file.data() + 8, 4);
    std::memcpy(&kinds, file.data() + 12, 4);
    std::memcpy(scales.data(), file.data() + 16, sizeof(scales));
    std::memcpy(offsets.data(), file.data() + 16 + sizeof(scales), sizeof(offsets));
    CHECK(kinds == kBuiltInCategories && file.size() == kHeader + std::size_t{rows} * kinds);
    const auto* weights = reinterpret_cast<const std::int8_t*>(file.data() + kHeader);
    std::array<double, kBuiltInCategories> scores{};
    std::copy(offsets.begin(), offsets.end(), scores.begin());
    for (const Feature& feature : features_of(text)) {
        const std::size_t row = feature.hash % rows;
        for (std::size_t i = 0; i < scores.size(); ++i) {
            scores[i] += static_cast<double>(feature.weight * scales[i] * static_cast<float>(weights[row * kinds + i]));
        }
    }
    // The kinds exclude each other, but for the last: any kind of question can have an answer that changes soon.
    const double likely_volatile = 1.0 / (1.0 + std::exp(-scores[kVolatile]));
    scores[kVolatile] = -1e9;
    const double most = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) {
        score = std::exp(score - most);
    }
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& score : scores) {
        score /= sum;
    }
    scores[kVolatile] = likely_volatile;
    return scores;
}

std::size_t CategoryClassifier::classify(std::string_view text) const {
    if (!prototypes_.empty()) {
        const std::vector<float> vector = embedder_.embed_one(text);
        double best = kPrototypeNear;
        std::size_t category = kBuiltInCategories;
        bool found = false;
        for (const Prototype& prototype : prototypes_) {
            const double cosine = std::inner_product(vector.begin(), vector.end(), prototype.vector.begin(), 0.0);
            if (cosine >= best) {
                best = cosine;
                category = prototype.category;
                found = true;
            }
        }
        if (found) { return category; }
    }
    const auto likely = probabilities(text);
    const auto kind =
        static_cast<std::size_t>(std::max_element(likely.begin(), likely.begin() + kVolatile) - likely.begin());
    if (kind == kGeneral && (likely[kVolatile] >= kVolatileFrom || names_now(text))) { return kVolatile; }
    return kind;
}

}  // namespace caching
