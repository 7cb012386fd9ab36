#include "caching/semantic/semantic_cache.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr std::size_t kNearest = 24;         // that are looked at closely
constexpr std::size_t kNearestJoint = 32;    // and that are heard together (JointVote)
constexpr std::size_t kNearestVoting = 5;    // Evidence::support
constexpr std::size_t kNearestAveraged = 3;  // Evidence::mean
constexpr double kVoteWidth = 0.05;          // of similarity, over which a vote falls to 1/e
constexpr double kVoteLeast = 0.01;          // so that nobody's vote is worth nothing
constexpr double kOfHalf = 1.41421356;       // a blended() vector's half is shorter by this
constexpr std::size_t kKindFrom = 32;        // questions of a partition say of what kind the others are,
constexpr double kKindShare = 0.9;           // where so many are of one kind
constexpr std::int64_t kTtlShortestMs = 30'000;
constexpr double kChangedMost = 0.05;    // of answers may have changed at the end of their time
constexpr double kChangesOfOthers = 3;   // changes that a category's policy counts for,
constexpr double kChangesOfKind = 1;     // and that a category counts for with each of its answers: these differ much
constexpr double kAskedAgainMost = 512;  // then the older half of what is known of changes is forgotten

}  // namespace

SemanticCache::SemanticCache(SemanticCacheOptions options, const base::Clock& clock, Embedder& embedder,
                             const HashedEmbedder& hashed)
    : options_(std::move(options)),
      clock_(clock),
      embedder_(embedder),
      hashed_(hashed),
      classifier_(options_.categories, hashed),
      has_model_(embedder.name().ends_with("+" + hashed.name())),
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

Lookup SemanticCache::lookup(const Question& question, double relief, std::vector<float> vector) {
    if (!options_.relieves) { relief = 0; }
    Lookup found;
    found.reason = why_not(question, options_.rules);
    if (found.reason != Uncacheable::none) { return found; }
    const base::TimePoint now = clock_.now();
    Probe& probe = found.probe;
    probe.keys = keys_of(question, embedder_.name(), options_.key);
    const std::string_view text = asked(question);
    probe.category = classifier_.classify(text);
    const auto partition = partitions_.find(probe.keys.partition);
    if (partition != partitions_.end()) { probe.category = kind_among(partition->second, probe.category); }
    if (!vector.empty()) {
        probe.vector = std::move(vector);
        probe.profile = profile_of(canonical_text(text));
    }
    if (const auto same = exact_.find(probe.keys.exact); same != exact_.end()) {
        Entry& entry = entries_.at(same->second);
        ErrorBudget& budget = learnt_[entry.category].budget;
        const double late = late_chance(entry, now);
        if (alive(entry, now) || (may_serve(entry, now, relief) && late <= budget.late_chance_max(relief))) {
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
    if (partition == partitions_.end()) { return found; }  // nothing to compare with: the vector can wait
    CategoryAccount& account = learnt_[probe.category].account;
    if (!account.may_search()) { return found; }
    if (embed_probe(question, probe)) { weigh(found, partition->second, now, relief); }
    account.searched(std::chrono::duration<double>(clock_.now() - now).count());
    return found;
}

/// What questions are kept with says of a question's kind, too: where nearly all of a partition are of one kind (it has
/// a system prompt, mostly), the others are taken for it. What changes soon stays what it is, as does what only equal
/// questions are answered for.
std::size_t SemanticCache::kind_among(const Partition& partition, std::size_t kind) const {
    if (kind == kVolatile || !options_.categories[kind].semantic || partition.size() < kKindFrom) { return kind; }
    const auto most = std::max_element(partition.kinds.begin(), partition.kinds.end());
    const auto common = static_cast<std::size_t>(most - partition.kinds.begin());
    const bool is_common = static_cast<double>(*most) >= kKindShare * static_cast<double>(partition.size());
    const bool is_kind = common != kGeneral && common != kVolatile && options_.categories[common].semantic;
    return is_common && is_kind ? common : kind;
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

/// The nearest questions that pass the gates. `heard`: these and those that do not, which are evidence all the same.
std::vector<SemanticCache::Neighbour> SemanticCache::neighbours(Lookup& found, const Partition& partition,
                                                                base::TimePoint now, double relief, Heard& heard) {
    const Probe& probe = found.probe;
    const Gates gates = options_.categories[probe.category].gates;
    const std::vector<Near> nearest = partition.nearest(probe.vector, kNearestJoint);
    std::vector<float> words;
    if (has_model_ && probe.vector.size() > hashed_.dimensions()) {
        std::vector<float> tail(probe.vector.end() - static_cast<std::ptrdiff_t>(hashed_.dimensions()),
                                probe.vector.end());
        normalise(tail);
        words = partition.tail_products(std::span(nearest).first(std::min(nearest.size(), kNearest)), tail);
    }
    std::vector<Neighbour> passed;
    double most_words = -1;
    for (std::size_t at = 0; at < nearest.size(); ++at) {
        const Entry& entry = entries_.at(nearest[at].entry);
        if (!may_serve(entry, now, relief) || entry.category != probe.category) { continue; }
        heard.rows.push_back(nearest[at].row);
        heard.similarities.push_back(nearest[at].similarity);
        heard.answers.push_back(entry.meaning);
        if (at >= kNearest) { continue; }
        const Gate gate = first_conflict(probe.profile, entry.profile, gates);
        if (gate != Gate::none) {
            if (found.gate == Gate::none && passed.empty()) { found.gate = gate; }
            continue;
        }
        Neighbour one{.id = nearest[at].entry, .entry = &entry};
        one.similarity = static_cast<double>(nearest[at].similarity);
        one.vote = passed.empty() ? 1.0 : std::exp((one.similarity - passed.front().similarity) / kVoteWidth);
        if (!words.empty()) {
            one.words = static_cast<double>(words[at]) * kOfHalf;
            most_words = std::max(most_words, one.words);
        }
        passed.push_back(one);
    }
    for (Neighbour& one : passed) {
        one.words_vote = words.empty() ? 0.0 : std::exp((one.words - most_words) / kVoteWidth);
    }
    return passed;
}

/// Each neighbour votes for its answer, the more the nearer it is, and the nearest with the most votes is the
/// candidate; but one of the very nearest that has the same content words and nothing against it comes before all of
/// them.
const SemanticCache::Neighbour& SemanticCache::candidate_of(const Probe& probe,
                                                            const std::vector<Neighbour>& passed) const {
    const Gates gates = options_.categories[probe.category].gates;
    for (std::size_t at = 0; at < std::min(passed.size(), kNearestVoting); ++at) {
        const TextProfile& profile = passed[at].entry->profile;
        if (unmatched_share(probe.profile, profile) == 0 &&
            first_conflict(probe.profile, profile, ~gates) == Gate::none) {
            return passed[at];
        }
    }
    const Neighbour* best = &passed.front();
    double most = 0;
    for (const Neighbour& one : passed) {
        double votes = 0;
        for (const Neighbour& other : passed) {
            votes += other.entry->meaning == one.entry->meaning ? other.vote : 0.0;
        }
        if (votes > most) {  // the first of an answer is its nearest
            most = votes;
            best = &one;
        }
    }
    return *best;
}

Evidence SemanticCache::evidence_of(Probe& probe, const Neighbour& candidate,
                                    const std::vector<Neighbour>& passed) const {
    const std::uint64_t meaning = candidate.entry->meaning;
    const Gates gates = options_.categories[probe.category].gates;
    Evidence evidence;
    evidence.similarity = candidate.similarity;
    evidence.unmatched = unmatched_share(probe.profile, candidate.entry->profile);
    evidence.conflict = first_conflict(probe.profile, candidate.entry->profile, ~gates) == Gate::none ? 0.0 : 1.0;
    double sum = 0;
    std::size_t averaged = 0;
    std::size_t voters = 0;
    std::size_t agreed = 0;
    std::array<double, 2> votes = {kVoteLeast, kVoteLeast};  // against it, for it
    std::array<double, 2> words_votes = votes;
    for (const Neighbour& one : passed) {
        const bool same = one.entry->meaning == meaning;
        votes[same ? 1 : 0] += one.vote;
        words_votes[same ? 1 : 0] += one.words_vote;
        if (voters < kNearestVoting) {
            ++voters;
            agreed += same ? 1 : 0;
        }
        if (!same && evidence.rival == 0) { evidence.rival = one.similarity; }
        if (!same) { continue; }
        if (one.entry->own == meaning && probe.representative == EntryId{}) { probe.representative = one.id; }
        if (averaged < kNearestAveraged) {
            sum += one.similarity;
            ++averaged;
        }
    }
    const double missing = static_cast<double>(kNearestAveraged - averaged) * std::max(evidence.rival, 0.2);
    evidence.mean = (sum + missing) / static_cast<double>(kNearestAveraged);
    evidence.support = static_cast<double>(agreed) / static_cast<double>(voters);
    evidence.vote = std::log(votes[1] / votes[0]);
    evidence.words_vote = std::log(words_votes[1] / words_votes[0]);
    evidence.lean = has_model_ ? candidate.words - candidate.similarity : 0.0;
    return evidence;
}

/// Takes the best answer among the nearest questions that pass the gates, and serves it when the budget lets it.
void SemanticCache::weigh(Lookup& found, const Partition& partition, base::TimePoint now, double relief) {
    Probe& probe = found.probe;
    if (partition.dimensions() != probe.vector.size()) { return; }
    Heard heard;
    const std::vector<Neighbour> passed = neighbours(found, partition, now, relief, heard);
    if (passed.empty()) { return; }
    const Neighbour& candidate = candidate_of(probe, passed);
    probe.has_candidate = true;
    probe.candidate = candidate.id;
    probe.candidate_meaning = candidate.entry->meaning;
    Evidence evidence = evidence_of(probe, candidate, passed);
    evidence.joint =
        joint_vote(partition.products_among(heard.rows), heard.similarities, heard.answers, probe.candidate_meaning);
    if (const auto fate = partition.fates.find(probe.candidate_meaning); fate != partition.fates.end()) {
        evidence.known = fate->second.questions;
        evidence.right = static_cast<double>(fate->second.right);
        evidence.wrong = static_cast<double>(fate->second.wrong);
    }
    probe.evidence = evidence;
    probe.probability = learnt_[probe.category].calibration.probability(evidence);
    ErrorBudget& budget = learnt_[probe.category].budget;
    Entry& served = entries_.at(probe.candidate);
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
    serve(found, probe.candidate, served, now);
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
void SemanticCache::asked_again(const Entry& old, double age_s, bool is_same) {
    Learnt& learnt = learnt_[old.category];
    learnt.asked_again += 1;
    learnt.changed += is_same ? 0 : 1;
    learnt.watched_s += age_s;
    if (learnt.asked_again < kAskedAgainMost) { return; }
    learnt.asked_again /= 2;
    learnt.changed /= 2;
    learnt.watched_s /= 2;
}

/// Answers change at a rate that is drawn for each of them from what is known of their category, which is drawn from
/// its policy: so long that kChangedMost of such answers have changed at its end.
base::Duration SemanticCache::lifetime(const Entry& entry) const {
    const CategoryPolicy& policy = options_.categories[entry.category];
    const Learnt& learnt = learnt_[entry.category];
    const double policy_s = static_cast<double>(policy.ttl_ms) / 1000.0;
    const double of_others_s = kChangesOfOthers * policy_s / kChangedMost;  // in which so many changes would be seen
    const double of_kind_s = kChangesOfKind * (of_others_s + learnt.watched_s) / (kChangesOfOthers + learnt.changed);
    const double rate = (kChangesOfKind + static_cast<double>(entry.changes)) /
                        std::max(of_kind_s + static_cast<double>(entry.watched_s), 1e-3);
    const auto ttl = std::chrono::milliseconds(static_cast<std::int64_t>(
        std::min(1000.0 * kChangedMost / rate, static_cast<double>(std::max(policy.ttl_longest_ms, policy.ttl_ms)))));
    return std::max<base::Duration>(ttl, std::chrono::milliseconds(std::min(policy.ttl_ms, kTtlShortestMs)));
}

void SemanticCache::insert(const Question& question, const Probe& found, const Answer& answer, std::uint64_t meaning,
                           double saved_s, std::vector<std::string> tags) {
    Probe probe = found;
    const CategoryPolicy& policy = options_.categories[probe.category];
    Entry entry;
    entry.category = static_cast<std::uint32_t>(probe.category);
    entry.ttl = std::chrono::milliseconds(policy.ttl_ms);
    if (const auto before = exact_.find(probe.keys.exact); before != exact_.end()) {
        // Asked again after its time: an answer that stayed may live longer, one that changed lives shorter.
        const Entry& old = entries_.at(before->second);
        entry.watched_s = old.watched_s;
        entry.changes = old.changes;
        if (!alive(old, clock_.now())) {
            ++counts_.expired;
            const bool is_same = old.meaning == meaning || says_same(before->second, answer);
            const double age_s = std::chrono::duration<double>(clock_.now() - old.created).count();
            asked_again(old, age_s, is_same);
            entry.watched_s += static_cast<float>(age_s);
            entry.changes += is_same ? 0.0F : 1.0F;
            entry.ttl = lifetime(entry);
        }
        remove(before->second);
    }
    entry.partition = probe.keys.partition;
    entry.exact = probe.keys.exact;
    entry.meaning = meaning;
    entry.own = meaning_of(answer);
    entry.document = to_document(answer);
    entry.revision = question.revision;
    entry.tags = std::move(tags);
    entry.created = clock_.now();
    entry.valued = entry.created;
    entry.saved_s = saved_s;
    const bool compared = options_.semantic && policy.semantic && question.tools.empty() && !asked(question).empty();
    entry.has_vector = compared && embed_probe(question, probe);
    entry.profile = std::move(probe.profile);
    entry.bytes = bytes_of(entry, probe.vector.size());
    entry.tenant = tenant_index(question.tenant);
    sweep_expired();
    if (is_nearly_full() && !doorkeeper_.seen_before(entry.exact.low)) {
        ++counts_.turned_away;
        return;
    }
    if (!make_room(entry.tenant, entry.category, entry.bytes)) { return; }
    if (!entry.has_vector) { probe.vector.clear(); }
    if (journal_ != nullptr) { journal_->put(saved_of(entry, probe.vector)); }
    add(EntryId{next_id_++}, std::move(entry), probe.vector);
}

}  // namespace caching
