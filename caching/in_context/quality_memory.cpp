#include "caching/in_context/quality_memory.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kNearest = 48;       // that count
constexpr double kFocus = 6;               // one that is by 0.1 less alike than the nearest counts about half as much
constexpr double kMeanWeight = 2;          // answers as near as the nearest, that the mean of all is worth
constexpr double kSimilarityLeast = 0.25;  // beyond it a question says no more than any

}  // namespace

QualityMemory::QualityMemory(std::size_t dimensions, std::size_t capacity, DotRows dot_rows)
    : dimensions_(dimensions), capacity_(capacity), dot_rows_(dot_rows) {
    CHECK(dimensions > 0 && capacity > 0);
}

void QualityMemory::add(std::span<const float> vector, Arm arm, double quality) {
    CHECK(vector.size() == dimensions_);
    Ring& ring = rings_[arm == Arm::small ? 0 : 1];
    if (ring.qualities.size() < capacity_) {
        ring.qualities.push_back(0);
        ring.scales.push_back(0);
        ring.rows.resize(ring.rows.size() + dimensions_);
        ring.next = ring.qualities.size() - 1;
    }
    ring.sum += quality - ring.qualities[ring.next];
    ring.qualities[ring.next] = quality;
    ring.scales[ring.next] = quantise(vector, ring.rows.data() + ring.next * dimensions_);
    ring.next = (ring.next + 1) % capacity_;
}

double QualityMemory::near(std::span<const float> vector, Arm arm, double fallback) const {
    const Ring& ring = of(arm);
    if (ring.qualities.empty()) { return fallback; }
    std::vector<std::int8_t> query(dimensions_);
    const float scale = quantise(vector, query.data());
    std::vector<std::int32_t> products(ring.qualities.size());
    dot_rows_(query.data(), ring.rows.data(), products.size(), dimensions_, products.data());
    std::vector<std::pair<double, double>> nearest;  // similarity, quality
    for (std::size_t at = 0; at < products.size(); ++at) {
        const double similarity = static_cast<double>(static_cast<float>(products[at]) * scale * ring.scales[at]);
        if (similarity >= kSimilarityLeast) { nearest.emplace_back(similarity, ring.qualities[at]); }
    }
    const std::size_t count = std::min(kNearest, nearest.size());
    std::partial_sort(nearest.begin(), nearest.begin() + static_cast<std::ptrdiff_t>(count), nearest.end(),
                      std::greater<>());
    double weights = kMeanWeight;
    double sum = kMeanWeight * ring.sum / static_cast<double>(ring.qualities.size());
    for (std::size_t at = 0; at < count; ++at) {
        const double weight = std::exp(kFocus * (nearest[at].first - nearest.front().first));
        weights += weight;
        sum += weight * nearest[at].second;
    }
    return sum / weights;
}

void QualityMemory::forget(Arm arm) {
    rings_[arm == Arm::small ? 0 : 1] = {};
}

}  // namespace caching
