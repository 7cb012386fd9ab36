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
constexpr double kAskedAgainMost = 512;  // then the older half of what is known of changes is forgotten

}  // namespace

SemanticCache::SemanticCache(SemanticCacheOptions options, const base::Clock& clock, Embedder& embedder,
                             const HashedEmbedder& hashed)
    : options_(std::move(options)),
      clock_(clock),
      embedder_(embedder),
      classifier_(options_.categories, hashed),
      random_(options_.seed),
      everything_({}, Calibration::start_weights()) {
    learnt_ = fresh_learnt();
}

bool SemanticCache::may_serve(const Entry& entry, base::TimePoint now, double relief) const {
    if (alive(entry, now)) { return true; }
    const double longer = 1.0 + options_.categories[entry.category].ttl_growth * relief;
    return std::chrono::duration<double>(now - entry.created) < longer * std::chrono::duration<double>(entry.ttl);
}

double SemanticCache::late_chance(const Entry& entry, base::TimePoint now) const {
    return alive(entry, now) ? 0.0 : learnt_[entry.category].changed_chance();
}

Lookup SemanticCache::lookup(const Question& question, double relief) {
    if (!options_.relieves) { relief = 0; }
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
        ErrorBudget& budget = learnt_[entry.category].budget;
        const double late = late_chance(entry, now);
        if (alive(entry, now) || (may_serve(entry, now, relief) && late <= budget.wrong_chance_max(relief))) {
            found.kind = HitKind::exact;
            found.similarity = 1.0;
            found.is_late = found.is_relieved = !alive(entry, now);
            found.is_late ? budget.late_hit(late) : budget.exact_hit();
            serve(found, same->second, entry, now);
            return found;
        }
    }
    if (!options_.semantic || !options_.categories[probe.category].semantic || text.empty()) { return found; }
    if (!question.tools.empty()) { return found; }
    const auto partition = partitions_.find(probe.keys.partition);
    if (partition == partitions_.end()) { return found; }  // nothing to compare with: the vector can wait
    CategoryAccount& account = learnt_[probe.category].account;
    if (!account.may_search()) { return found; }
    if (embed_probe(question, probe)) { weigh(found, partition->second, now, relief); }
    account.searched(std::chrono::duration<double>(clock_.now() - now).count());
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
void SemanticCache::weigh(Lookup& found, const Partition& partition, base::TimePoint now, double relief) {
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
        if (!may_serve(entry, now, relief) || entry.category != probe.category) { continue; }
        const Gate gate = first_conflict(probe.profile, entry.profile, gates);
        if (gate != Gate::none) {
            if (found.gate == Gate::none && !probe.has_candidate) { found.gate = gate; }
            continue;
        }
        const auto similarity = static_cast<double>(near.similarity);
        if (!probe.has_candidate) {
            probe.has_candidate = true;
            probe.candidate_meaning = entry.meaning;
            probe.candidate = best = near.entry;
            evidence.similarity = similarity;
            evidence.unmatched = unmatched_share(probe.profile, entry.profile);
            evidence.conflict = first_conflict(probe.profile, entry.profile, ~gates) == Gate::none ? 0.0 : 1.0;
        }
        const bool same = entry.meaning == probe.candidate_meaning;
        if (same && entry.own == entry.meaning && probe.representative == EntryId{}) {
            probe.representative = near.entry;
        }
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
    Entry& served = entries_.at(best);
    probe.probability *= 1.0 - late_chance(served, now);
    const double wrong_chance = 1.0 - probe.probability;
    if (evidence.similarity < options_.categories[probe.category].similarity_min ||
        wrong_chance > budget.wrong_chance_max(relief)) {
        return;
    }
    found.is_late = !alive(served, now);
    found.is_relieved = found.is_late || (relief > 0 && wrong_chance > budget.wrong_chance_max());
    budget.semantic_hit(wrong_chance);
    learnt_[probe.category].account.earned(probe.probability * served.saved_s);
    found.kind = HitKind::semantic;
    found.similarity = evidence.similarity;
    found.shadow_wanted = std::uniform_real_distribution<double>(0, 1)(random_) < options_.shadow_share;
    serve(found, best, served, now);
}

void SemanticCache::serve(Lookup& found, EntryId id, Entry& entry, base::TimePoint now) {
    entry.value = value_per_byte(entry, now) * static_cast<double>(entry.bytes) / std::max(entry.saved_s, 1e-3) + 1.0;
    entry.valued = now;
    found.entry = id;
    found.document = entry.document;
    found.saved_s = entry.saved_s;
    found.age = now - entry.created;
}

bool SemanticCache::says_same(EntryId id, const Answer& answer) const {
    const auto entry = entries_.find(id);
    if (!options_.judges || entry == entries_.end()) { return false; }
    const auto kept = from_document(entry->second.document);
    return kept && kept->refusal == answer.refusal && kept->tool_calls == answer.tool_calls &&
           judge_answers(kept->content, answer.content).same;
}

/// An answer joins a class of answers that say the same only by the words that the class began with, where those are
/// at hand: likeness is not passed on from one to the next.
SemanticCache::Said SemanticCache::compare(const Probe& probe, const Answer& answer) const {
    const std::uint64_t own = meaning_of(answer);
    if (!probe.has_candidate) { return {false, own}; }
    if (own == probe.candidate_meaning) { return {true, own}; }
    if (!says_same(probe.candidate, answer)) { return {false, own}; }
    const bool joins = probe.representative == EntryId{} || probe.representative == probe.candidate ||
                       says_same(probe.representative, answer);
    return {true, joins ? probe.candidate_meaning : own};
}

void SemanticCache::learn(const Probe& probe, bool correct) {
    if (!probe.has_candidate) { return; }
    everything_.observe(probe.evidence, correct);
    Learnt& learnt = learnt_[probe.category];
    learnt.calibration.set_above(everything_.weights());
    learnt.calibration.observe(probe.evidence, correct);
    told_observation(learnt.budget.state(), learnt.budget);
    if (const auto partition = partitions_.find(probe.keys.partition); partition != partitions_.end()) {
        const auto fate = partition->second.fates.find(probe.candidate_meaning);
        if (fate != partition->second.fates.end()) { (correct ? fate->second.right : fate->second.wrong) += 1.0F; }
    }
}

void SemanticCache::store(const Question& question, Probe probe, const Answer& answer, double saved_s,
                          std::vector<std::string> tags) {
    if (why_not(question, options_.rules) != Uncacheable::none || !may_be_stored(answer)) { return; }
    const Said said = compare(probe, answer);
    learn(probe, said.same);
    insert(question, probe, answer, said.meaning, saved_s, std::move(tags));
}

void SemanticCache::observe_shadow(const Question& question, Probe probe, const Answer& answer) {
    if (!probe.has_candidate || !may_be_stored(answer)) { return; }
    const Said said = compare(probe, answer);
    if (const auto served = entries_.find(probe.candidate); served != entries_.end()) {
        learnt_[probe.category].account.spent(served->second.saved_s);
    }
    ErrorBudget& budget = learnt_[probe.category].budget;
    const ErrorBudget::State before = budget.state();
    budget.shadow(!said.same, 1.0 - probe.probability);
    told_observation(before, budget);
    learn(probe, said.same);
    insert(question, probe, answer, said.meaning, 1.0, {});  // it is paid for
}

base::Result<void> SemanticCache::report_wrong(EntryId id) {
    const auto found = entries_.find(id);
    if (found == entries_.end()) {
        return base::fail(base::ErrorCode::not_found,
                          "no cached answer " + std::to_string(static_cast<std::uint64_t>(id)));
    }
    ErrorBudget& budget = learnt_[found->second.category].budget;
    const ErrorBudget::State before = budget.state();
    budget.complaint();
    told_observation(before, budget);
    remove(id);
    return {};
}

std::optional<std::string> SemanticCache::tenant_of(EntryId id) const {
    const auto found = entries_.find(id);
    if (found == entries_.end()) { return std::nullopt; }
    return tenants_[found->second.tenant].name;
}

/// The model has answered what it answered before, after that answer's time.
void SemanticCache::asked_again(const Entry& old, bool is_same) {
    Learnt& learnt = learnt_[old.category];
    learnt.asked_again += 1;
    learnt.changed += is_same ? 0 : 1;
    if (learnt.asked_again < kAskedAgainMost) { return; }
    learnt.asked_again /= 2;
    learnt.changed /= 2;
}

void SemanticCache::insert(const Question& question, const Probe& found, const Answer& answer, std::uint64_t meaning,
                           double saved_s, std::vector<std::string> tags) {
    Probe probe = found;
    const CategoryPolicy& policy = options_.categories[probe.category];
    base::Duration ttl = std::chrono::milliseconds(policy.ttl_ms);
    if (const auto before = exact_.find(probe.keys.exact); before != exact_.end()) {
        // Asked again after its time: an answer that stayed may live longer, one that changed lives shorter.
        const Entry& old = entries_.at(before->second);
        if (!alive(old, clock_.now())) {
            ++counts_.expired;
            const bool is_same = old.meaning == meaning || says_same(before->second, answer);
            asked_again(old, is_same);
            const auto longest = std::chrono::milliseconds(std::max(policy.ttl_longest_ms, policy.ttl_ms));
            const auto shortest = std::chrono::milliseconds(std::min(policy.ttl_ms, kTtlShortestMs));
            ttl = is_same ? std::min<base::Duration>(old.ttl * kTtlGrowth, longest)
                          : std::max<base::Duration>(old.ttl / kTtlGrowth, shortest);
        }
        remove(before->second);
    }
    Entry entry;
    entry.partition = probe.keys.partition;
    entry.exact = probe.keys.exact;
    entry.category = static_cast<std::uint32_t>(probe.category);
    entry.meaning = meaning;
    entry.own = meaning_of(answer);
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
    entry.bytes = bytes_of(entry, probe.vector.size());
    entry.tenant = tenant_index(question.tenant);
    if (static_cast<double>(bytes_) > options_.doorkeeper_from * static_cast<double>(options_.bytes_max) ||
        static_cast<double>(entries_.size()) > options_.doorkeeper_from * static_cast<double>(options_.entries_max)) {
        if (!doorkeeper_.seen_before(entry.exact.low)) {
            ++counts_.turned_away;
            return;
        }
    }
    if (!make_room(entry.tenant, entry.category, entry.bytes)) { return; }
    if (!entry.has_vector) { probe.vector.clear(); }
    if (journal_ != nullptr) { journal_->put(saved_of(entry, probe.vector)); }
    add(EntryId{next_id_++}, std::move(entry), probe.vector);
}

}  // namespace caching
