// What router and selector have learnt, from one life of the process to the next.
#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/bytes.h"

namespace caching {
namespace {

constexpr char kForm[] = "sluice in-context learning 1";
constexpr std::size_t kRevisionsMost = 4;  // of an arm: workers of two may take turns while one replaces the other
constexpr std::uint64_t kToldEvery = 256;  // judged answers between two times that a store is told

bool is_share(double value) {
    return std::isfinite(value) && value >= 0 && value <= 1;
}

template <class Numbers>
void put_all(ByteWriter& bytes, const Numbers& values) {
    for (const auto value : values) {
        bytes.number(value);
    }
}

/// Doubles of a fixed number; false where one is none.
template <class Numbers>
bool take_all(ByteReader& bytes, Numbers& values) {
    bool is_sound = true;
    for (double& value : values) {
        value = bytes.number<double>();
        is_sound = is_sound && std::isfinite(value);
    }
    return is_sound && bytes.ok();
}

std::string sealed(const base::HashKey& key, std::string body) {
    const base::BlockHash seal = base::keyed_hash(key, std::as_bytes(std::span(body)));
    ByteWriter bytes;
    bytes.number(seal.high);
    bytes.number(seal.low);
    return bytes.take() + body;
}

}  // namespace

void HelpfulnessProxy::save(ByteWriter& bytes) const {
    put_all(bytes, weights_);
    put_all(bytes, squares_);
    bytes.number(observations_);
}

bool HelpfulnessProxy::restore(ByteReader& bytes) {
    HelpfulnessProxy read;
    const bool is_sound = take_all(bytes, read.weights_) && take_all(bytes, read.squares_);
    read.observations_ = bytes.number<std::uint64_t>();
    if (!is_sound || !bytes.ok() || *std::min_element(read.squares_.begin(), read.squares_.end()) <= 0) {
        return false;
    }
    *this = read;
    return true;
}

void HelpfulnessThreshold::save(ByteWriter& bytes) const {
    bytes.number(values_[best_]);
    bytes.number(static_cast<std::uint32_t>(values_.size()));
    for (std::size_t at = 0; at < values_.size(); ++at) {
        bytes.number(values_[at]);
        put_all(bytes, std::array{seen_[at].gain, seen_[at].variance, seen_[at].count});
    }
}

/// The start that the settings name is tried like any other; what is known of a value that is no more is passed over.
bool HelpfulnessThreshold::restore(ByteReader& bytes) {
    const auto best = bytes.number<double>();
    const auto count = bytes.number<std::uint32_t>();
    std::vector<Seen> seen = seen_;
    std::size_t best_at = best_;
    for (std::uint32_t i = 0; i < count && bytes.ok(); ++i) {
        const auto value = bytes.number<double>();
        std::array<double, 3> known{};
        if (!take_all(bytes, known) || known[1] < 0 || known[2] < 0) { return false; }
        const auto found = std::find(values_.begin(), values_.end(), value);
        if (found == values_.end()) { continue; }
        const auto at = static_cast<std::size_t>(found - values_.begin());
        seen[at] = {.gain = known[0], .variance = known[1], .count = std::min(known[2], kSeenMost)};
        if (value == best) { best_at = at; }
    }
    if (!bytes.ok()) { return false; }
    seen_ = std::move(seen);
    best_ = best_at;
    return true;
}

void QualityMemory::save(ByteWriter& bytes) const {
    for (const Ring& ring : rings_) {
        bytes.number(static_cast<std::uint32_t>(ring.qualities.size()));
        for (std::size_t i = 0; i < ring.qualities.size(); ++i) {  // the oldest first
            const std::size_t at = (ring.next + i) % ring.qualities.size();
            bytes.number(ring.scales[at]);
            bytes.number(ring.qualities[at]);
            put_all(bytes, std::span(ring.rows).subspan(at * dimensions_, dimensions_));
        }
    }
}

bool QualityMemory::restore(ByteReader& bytes) {
    Ring rings[2];
    for (Ring& ring : rings) {
        const auto count = bytes.number<std::uint32_t>();
        if (count > capacity_) { return false; }
        for (std::uint32_t i = 0; i < count && bytes.ok(); ++i) {
            ring.scales.push_back(bytes.number<float>());
            ring.qualities.push_back(bytes.number<double>());
            if (!std::isfinite(ring.scales.back()) || !is_share(ring.qualities.back())) { return false; }
            ring.sum += ring.qualities.back();
            for (std::size_t one = 0; one < dimensions_; ++one) {
                ring.rows.push_back(bytes.number<std::int8_t>());
            }
        }
        ring.next = count % capacity_;
    }
    if (!bytes.ok()) { return false; }
    std::move(std::begin(rings), std::end(rings), std::begin(rings_));
    return true;
}

void ArmBelief::save(ByteWriter& bytes) const {
    for (const RouterFeatures& row : precision_) {
        put_all(bytes, row);
    }
    put_all(bytes, right_);
    put_all(bytes, std::array{noise_, drift_, since_change_});
    bytes.number(observations_);
}

bool ArmBelief::restore(ByteReader& bytes) {
    ArmBelief read(prior_, forgetting_);
    bool is_sound = true;
    for (RouterFeatures& row : read.precision_) {
        is_sound = take_all(bytes, row) && is_sound;
    }
    is_sound = take_all(bytes, read.right_) && is_sound;
    std::array<double, 3> rest{};
    is_sound = take_all(bytes, rest) && is_sound;
    read.observations_ = bytes.number<std::uint64_t>();
    for (std::size_t at = 0; at < kRouterFeatures; ++at) {
        is_sound = is_sound && read.precision_[at][at] > 0;
    }
    if (!is_sound || !bytes.ok() || rest[0] <= 0 || rest[2] < 0) { return false; }
    read.noise_ = rest[0];
    read.drift_ = rest[1];
    read.since_change_ = rest[2];
    read.changes_ = changes_;  // counts of this life
    read.factor();
    *this = read;
    return true;
}

void Router::save(ByteWriter& bytes) const {
    small_.save(bytes);
    large_.save(bytes);
    put_all(bytes, std::array{account_, surprise_, surprise_count_});
    bytes.number(alert_);
}

bool Router::restore(ByteReader& bytes) {
    ArmBelief small = small_;
    ArmBelief large = large_;
    std::array<double, 3> rest{};
    if (!small.restore(bytes) || !large.restore(bytes) || !take_all(bytes, rest)) { return false; }
    const auto alert = bytes.number<std::uint64_t>();
    if (!bytes.ok() || rest[0] < 0 || rest[2] < 0 || std::abs(rest[1]) > rest[2]) { return false; }
    small_ = small;
    large_ = large;
    account_ = std::min(rest[0], kAccountMost);
    surprise_ = rest[1];
    surprise_count_ = rest[2];
    alert_ = std::min(alert, kAlert);
    return true;
}

std::string InContextCache::learning() const {
    ByteWriter bytes;
    bytes.text(kForm);
    bytes.text(models_);
    for (const std::vector<std::string>& known : revisions_) {
        bytes.number(static_cast<std::uint32_t>(known.size()));
        for (const std::string& revision : known) {
            bytes.text(revision);
        }
    }
    bytes.number(static_cast<std::uint32_t>(dimensions_));
    proxy_.save(bytes);
    threshold_.save(bytes);
    router_.save(bytes);
    memory_.save(bytes);
    return sealed(options_.key, bytes.take());
}

bool InContextCache::restore_learning(std::string_view given) {
    ByteReader head(given);
    const auto high = head.number<std::uint64_t>();
    const auto low = head.number<std::uint64_t>();
    if (!head.ok()) { return false; }
    const std::string_view body = given.substr(2 * sizeof(std::uint64_t));
    const base::BlockHash seal = base::keyed_hash(options_.key, std::as_bytes(std::span(body)));
    ByteReader bytes(body);
    if (seal.high != high || seal.low != low || bytes.text() != kForm || bytes.text() != models_) { return false; }
    std::vector<std::string> revisions[2];
    for (std::vector<std::string>& known : revisions) {
        const auto count = bytes.number<std::uint32_t>();
        if (count > kRevisionsMost) { return false; }
        for (std::uint32_t i = 0; i < count; ++i) {
            known.push_back(bytes.text());
        }
    }
    HelpfulnessProxy proxy;
    HelpfulnessThreshold threshold = threshold_;
    Router router = router_;
    QualityMemory memory(dimensions_);
    if (bytes.number<std::uint32_t>() != dimensions_ || !proxy.restore(bytes) || !threshold.restore(bytes) ||
        !router.restore(bytes) || !memory.restore(bytes) || !bytes.at_end()) {
        return false;
    }
    std::move(std::begin(revisions), std::end(revisions), std::begin(revisions_));
    proxy_ = proxy;
    threshold_ = std::move(threshold);
    router_ = std::move(router);
    memory_ = std::move(memory);
    return true;
}

std::optional<std::string> InContextCache::take_learning(bool all) {
    if (untold_ == 0 || (!all && untold_ < kToldEvery)) { return std::nullopt; }
    untold_ = 0;
    return learning();
}

void InContextCache::served_by(Arm arm, std::string_view revision) {
    std::vector<std::string>& known = revisions_[arm == Arm::small ? 0 : 1];
    if (revision.empty() || std::find(known.begin(), known.end(), revision) != known.end()) { return; }
    if (!known.empty()) {
        router_.replaced(arm);
        hear_of_changes();
    }
    if (known.size() == kRevisionsMost) { known.erase(known.begin()); }
    known.emplace_back(revision);
    ++untold_;
}

}  // namespace caching
