#include "caching/semantic/semantic_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr std::size_t kNearest = 24;         // that are looked at closely
constexpr std::size_t kNearestVoting = 5;    // Evidence::support
constexpr std::size_t kNearestAveraged = 3;  // Evidence::mean
constexpr int kTtlGrowth = 3;                // of the time of an answer that was the same again, and back
constexpr std::int64_t kTtlShortestMs = 30'000;

}  // namespace

SemanticCache::SemanticCache(SemanticCacheOptions options, const base::Clock& clock, Embedder& embedder,
                             const HashedEmbedder& hashed)
    : options_(std::move(options)),
      clock_(clock),
      embedder_(embedder),
      classifier_(options_.categories, hashed),
      random_(options_.seed),
      everything_({}, Calibration::start_weights()) {
    for (const CategoryPolicy& policy : options_.categories) {
        learnt_.push_back({Calibration({}, Calibration::start_weights()), ErrorBudget(policy.error_target), 0});
    }
}

Lookup SemanticCache::lookup(const Question& question) {
    Lookup found;
    found.reason = why_not(question, options_.rules);
    if (found.reason != Uncacheable::none) { return found; }
    const base::TimePoint now = clock_.now();
    Probe& probe = found.probe;
    probe.keys = keys_of(question, embedder_.name(), options_.key);
    const std::string_view text = asked(question);
    probe.category = classifier_.classify(text);
    if (const auto same = exact_.find(probe.keys.exact); same != exact_.end()) {
        Entry& entry = entries_.at(same->second);
        if (alive(entry, now)) {
            found.kind = HitKind::exact;
            found.similarity = 1.0;
            learnt_[entry.category].budget.exact_hit();
            serve(found, same->second, entry, now);
            return found;
        }
    }
    if (!options_.semantic || !options_.categories[probe.category].semantic || text.empty()) { return found; }
    if (!question.tools.empty()) { return found; }
    const auto partition = partitions_.find(probe.keys.partition);
    if (partition == partitions_.end()) { return found; }  // nothing to compare with: the vector can wait
    if (!embed_probe(question, probe)) { return found; }
    weigh(found, partition->second, now);
    return found;
}

bool SemanticCache::embed_probe(const Question& question, Probe& probe) {
    if (!probe.vector.empty()) { return true; }
    const std::string text = canonical_text(asked(question));
    auto vectors = embedder_.embed(std::span(&text, 1));
    if (!vectors || vectors->size() != 1) {
        ++counts_.refused_unembedded;
        return false;
    }
    probe.vector = std::move(vectors->front());
    probe.profile = profile_of(text);
    return true;
}

/// Looks at the nearest questions, takes the best answer among those that pass the gates, and serves it when the
/// budget lets it.
void SemanticCache::weigh(Lookup& found, const Partition& partition, base::TimePoint now) {
    Probe& probe = found.probe;
    const std::vector<Near> nearest = partition.nearest(probe.vector, kNearest);
    const Gates gates = options_.categories[probe.category].gates;
    Evidence evidence;
    EntryId best{};
    double sum = 0;
    std::size_t averaged = 0;
    std::size_t voters = 0;
    std::size_t votes = 0;
    for (const Near& near : nearest) {
        const Entry& entry = entries_.at(near.entry);
        if (!alive(entry, now) || entry.category != probe.category) { continue; }
        const Gate gate = first_conflict(probe.profile, entry.profile, gates);
        if (gate != Gate::none) {
            if (found.gate == Gate::none && !probe.has_candidate) { found.gate = gate; }
            continue;
        }
        const auto similarity = static_cast<double>(near.similarity);
        if (!probe.has_candidate) {
            probe.has_candidate = true;
            probe.candidate_meaning = entry.meaning;
            best = near.entry;
            evidence.similarity = similarity;
            evidence.unmatched = unmatched_share(probe.profile, entry.profile);
            evidence.conflict = first_conflict(probe.profile, entry.profile, ~gates) == Gate::none ? 0.0 : 1.0;
        }
        const bool same = entry.meaning == probe.candidate_meaning;
        if (voters < kNearestVoting) {
            ++voters;
            votes += same ? 1 : 0;
        }
        if (same && averaged < kNearestAveraged) {
            sum += similarity;
            ++averaged;
        }
        if (!same && evidence.rival == 0) { evidence.rival = similarity; }
    }
    if (!probe.has_candidate) { return; }
    const double missing = static_cast<double>(kNearestAveraged - averaged) * std::max(evidence.rival, 0.2);
    evidence.mean = (sum + missing) / static_cast<double>(kNearestAveraged);
    evidence.support = static_cast<double>(votes) / static_cast<double>(voters);
    if (const auto fate = partition.fates.find(probe.candidate_meaning); fate != partition.fates.end()) {
        evidence.known = fate->second.questions;
        evidence.right = static_cast<double>(fate->second.right);
        evidence.wrong = static_cast<double>(fate->second.wrong);
    }
    probe.evidence = evidence;
    probe.probability = learnt_[probe.category].calibration.probability(evidence);
    ErrorBudget& budget = learnt_[probe.category].budget;
    if (evidence.similarity < options_.categories[probe.category].similarity_min ||
        1.0 - probe.probability > budget.wrong_chance_max()) {
        return;
    }
    budget.semantic_hit(1.0 - probe.probability);
    found.kind = HitKind::semantic;
    found.similarity = evidence.similarity;
    found.shadow_wanted = std::uniform_real_distribution<double>(0, 1)(random_) < options_.shadow_share;
    serve(found, best, entries_.at(best), now);
}

void SemanticCache::serve(Lookup& found, EntryId id, Entry& entry, base::TimePoint now) {
    entry.value = value_per_byte(entry, now) * static_cast<double>(entry.bytes) / std::max(entry.saved_s, 1e-3) + 1.0;
    entry.valued = now;
    found.entry = id;
    found.document = entry.document;
    found.age = now - entry.created;
}

void SemanticCache::learn(const Probe& probe, std::uint64_t meaning) {
    if (!probe.has_candidate) { return; }
    const bool correct = meaning == probe.candidate_meaning;
    everything_.observe(probe.evidence, correct);
    Learnt& learnt = learnt_[probe.category];
    learnt.calibration.set_above(everything_.weights());
    learnt.calibration.observe(probe.evidence, correct);
    if (const auto partition = partitions_.find(probe.keys.partition); partition != partitions_.end()) {
        const auto fate = partition->second.fates.find(probe.candidate_meaning);
        if (fate != partition->second.fates.end()) { (correct ? fate->second.right : fate->second.wrong) += 1.0F; }
    }
}

void SemanticCache::store(const Question& question, Probe probe, const Answer& answer, double saved_s,
                          std::vector<std::string> tags) {
    if (why_not(question, options_.rules) != Uncacheable::none || !may_be_stored(answer)) { return; }
    learn(probe, meaning_of(answer));
    insert(question, probe, answer, saved_s, std::move(tags));
}

void SemanticCache::observe_shadow(const Question& question, Probe probe, const Answer& answer) {
    if (!probe.has_candidate || !may_be_stored(answer)) { return; }
    const std::uint64_t meaning = meaning_of(answer);
    learnt_[probe.category].budget.shadow(meaning != probe.candidate_meaning, 1.0 - probe.probability);
    learn(probe, meaning);
    insert(question, probe, answer, 1.0, {});  // it is paid for
}

base::Result<void> SemanticCache::report_wrong(EntryId id) {
    const auto found = entries_.find(id);
    if (found == entries_.end()) {
        return base::fail(base::ErrorCode::not_found,
                          "no cached answer " + std::to_string(static_cast<std::uint64_t>(id)));
    }
    learnt_[found->second.category].budget.complaint();
    remove(id);
    return {};
}

std::optional<std::string> SemanticCache::tenant_of(EntryId id) const {
    const auto found = entries_.find(id);
    if (found == entries_.end()) { return std::nullopt; }
    return tenants_[found->second.tenant].name;
}

void SemanticCache::insert(const Question& question, const Probe& found, const Answer& answer, double saved_s,
                           std::vector<std::string> tags) {
    Probe probe = found;
    const CategoryPolicy& policy = options_.categories[probe.category];
    const std::uint64_t meaning = meaning_of(answer);
    base::Duration ttl = std::chrono::milliseconds(policy.ttl_ms);
    if (const auto before = exact_.find(probe.keys.exact); before != exact_.end()) {
        // Asked again after its time: an answer that stayed may live longer, one that changed lives shorter.
        const Entry& old = entries_.at(before->second);
        if (!alive(old, clock_.now())) {
            ++counts_.expired;
            const auto longest = std::chrono::milliseconds(std::max(policy.ttl_longest_ms, policy.ttl_ms));
            const auto shortest = std::chrono::milliseconds(std::min(policy.ttl_ms, kTtlShortestMs));
            ttl = old.meaning == meaning ? std::min<base::Duration>(old.ttl * kTtlGrowth, longest)
                                         : std::max<base::Duration>(old.ttl / kTtlGrowth, shortest);
        }
        remove(before->second);
    }
    Entry entry;
    entry.partition = probe.keys.partition;
    entry.exact = probe.keys.exact;
    entry.category = static_cast<std::uint32_t>(probe.category);
    entry.meaning = meaning;
    entry.document = to_document(answer);
    entry.revision = question.revision;
    entry.tags = std::move(tags);
    entry.created = clock_.now();
    entry.valued = entry.created;
    entry.ttl = ttl;
    entry.saved_s = saved_s;
    const bool compared = options_.semantic && policy.semantic && question.tools.empty() && !asked(question).empty();
    entry.has_vector = compared && embed_probe(question, probe);
    entry.profile = std::move(probe.profile);
    const TextProfile& kept = entry.profile;
    entry.bytes = sizeof(Entry) + 96 + entry.document.size() + (entry.has_vector ? probe.vector.size() + 12 : 0) +
                  4 * (kept.content.size() + kept.numbers.size() + kept.identifiers.size() + kept.names.size() +
                       kept.all.size() + kept.times.size() + kept.directed.size() + kept.poles.size());
    entry.tenant = tenant_index(question.tenant);
    if (static_cast<double>(bytes_) > options_.doorkeeper_from * static_cast<double>(options_.bytes_max) ||
        static_cast<double>(entries_.size()) > options_.doorkeeper_from * static_cast<double>(options_.entries_max)) {
        if (!doorkeeper_.seen_before(entry.exact.low)) {
            ++counts_.turned_away;
            return;
        }
    }
    if (!make_room(entry.tenant, entry.category, entry.bytes)) { return; }
    const EntryId id{next_id_++};
    if (entry.has_vector) {
        auto [place, made] = partitions_.try_emplace(entry.partition, embedder_.dimensions(), dot_rows_);
        entry.row = place->second.add(id, probe.vector);
        ++place->second.fates[meaning].questions;
    }
    Tenant& tenant = tenants_[entry.tenant];
    entry.in_order = order_.size();
    entry.in_tenant = tenant.entries.size();
    order_.push_back(id);
    tenant.entries.push_back(id);
    tenant.bytes += entry.bytes;
    learnt_[entry.category].bytes += entry.bytes;
    bytes_ += entry.bytes;
    exact_[entry.exact] = id;
    entries_.emplace(id, std::move(entry));
}

}  // namespace caching
