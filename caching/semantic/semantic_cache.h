#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "caching/semantic/answer.h"
#include "caching/semantic/answer_judge.h"
#include "caching/semantic/budget.h"
#include "caching/semantic/calibration.h"
#include "caching/semantic/categories.h"
#include "caching/semantic/category_account.h"
#include "caching/semantic/doorkeeper.h"
#include "caching/semantic/embedder.h"
#include "caching/semantic/load_relief.h"
#include "caching/semantic/partition.h"
#include "caching/semantic/question.h"
#include "caching/semantic/saved_question.h"
#include "caching/semantic/text_profile.h"

namespace caching {

struct SemanticCacheOptions {
    bool semantic = true;  // false: equal questions only
    CacheRules rules;
    std::vector<CategoryPolicy> categories = default_policies();
    std::size_t entries_max = 1'000'000;
    std::size_t bytes_max = std::size_t{1} << 30;
    double tenant_share = 1.0;                       // of bytes_max that one tenant may fill
    double shadow_share = 0.02;                      // of hits by similarity that are generated again and compared
    std::size_t graph_from = Partition::kGraphFrom;  // of a partition's questions on it is searched by a graph
    double doorkeeper_from = 0.9;  // from this fill on a question is stored when it comes a second time
    bool judges = false;    // answers in other words may say the same (judge_answers()); else only equal texts do
    bool relieves = false;  // bounds give way while the pools have too much to do:
    LoadRelief::Options relief_load;
    ErrorBudget::Reserve relief_reserve;
    double relief_ttl_growth = 1.0;  // of answers to equal requests, as CategoryPolicy::ttl_growth
    std::uint64_t seed = 1;          // of shadows and eviction
    base::HashKey key{};             // the cluster's: names of partitions cannot be computed without it
};

/// Asks for the keys of `caching.semantic`; what is wrong with them comes from config.finish().
void read_semantic_options(base::Config& config, SemanticCacheOptions& options);

enum class HitKind { none, exact, semantic };

/// What a lookup found out and store() needs again, so that nothing is computed twice.
struct Probe {
    QuestionKeys keys;
    std::size_t category = 0;
    std::vector<float> vector;  // empty: not embedded yet
    TextProfile profile;
    bool has_candidate = false;
    Evidence evidence;
    EntryId candidate{};
    EntryId representative{};  // the nearest whose own words stand for the candidate's answer; 0: none is near
    std::uint64_t candidate_meaning = 0;
    double probability = 0;
};

struct Lookup {
    HitKind kind = HitKind::none;
    Uncacheable reason = Uncacheable::none;
    EntryId entry{};
    std::string document;  // of a hit
    double similarity = 0;
    double saved_s = 0;  // of the model, by a hit
    base::Duration age{};
    Gate gate = Gate::none;      // of the nearest question, where a gate kept its answer back
    bool is_late = false;        // beyond its time, which full load lengthens
    bool is_relieved = false;    // at rest it would not have been served
    bool shadow_wanted = false;  // generate it all the same, from idle capacity, and tell observe_shadow()
    Probe probe;
};

/// Which entries go. All that are given must hold.
struct EntryFilter {
    std::optional<EntryId> entry;
    std::optional<std::string> tenant;
    std::optional<std::string> model_revision;
    std::optional<std::string> category;
    std::optional<std::string> tag;
    std::optional<base::Duration> older_than;
    std::optional<std::string> near_text;  // questions within `near_similarity` of it
    double near_similarity = 0.9;

    bool is_all() const {
        return !entry && !tenant && !model_revision && !category && !tag && !older_than && !near_text;
    }
};

struct CacheCounts {
    std::size_t entries = 0;
    std::size_t bytes = 0;
    std::size_t partitions = 0;
    std::uint64_t evicted = 0;
    std::uint64_t expired = 0;
    std::uint64_t turned_away = 0;  // by the doorkeeper
    std::uint64_t refused_unembedded = 0;
};

/// Answers of a model by question: equal questions first, then similar ones inside hard partitions, as far as the
/// category's error budget goes. Pure but for the embedder: no thread, no file, no socket. Not thread-safe.
/// Source: policies by category from "Category-aware semantic caching" (arXiv 2510.26835), whose thresholds are
/// replaced by measured errors.
class SemanticCache {
public:
    /// All three must outlive the cache.
    SemanticCache(SemanticCacheOptions options, const base::Clock& clock, Embedder& embedder,
                  const HashedEmbedder& hashed);

    /// Never fails: what cannot be embedded is a miss. `relief`: of the pool that would answer it (LoadRelief), 0 at
    /// rest; without `relieves` it counts for nothing. `vector`: of the text that is asked; empty: the embedder makes
    /// it.
    Lookup lookup(const Question& question, double relief = 0, std::vector<float> vector = {});

    /// The model has answered what lookup() missed. Learns from it whether the candidate would have been right, and
    /// stores it unless it is uncacheable, incomplete, or turned away at the door. `saved_s`: seconds of the model that
    /// a hit saves; `tags`: documents the answer depends on.
    void store(const Question& question, Probe probe, const Answer& answer, double saved_s = 1.0,
               std::vector<std::string> tags = {});

    /// The model's own answer to a question that was served by similarity.
    void observe_shadow(const Question& question, Probe probe, const Answer& answer);

    /// A user was served a wrong answer: it goes, and counts as an error. Error: not_found.
    base::Result<void> report_wrong(EntryId entry);

    /// From now on what is kept and what goes is told; null: no more. It must outlive the cache.
    void set_journal(QuestionJournal* journal) { journal_ = journal; }
    /// Keeps what an earlier life has told its journal. False, and nothing is kept, where its time is over, its
    /// embedder or category are others now, there is no room, or it is no whole question.
    bool restore(SavedQuestion saved);
    /// Calibrations, budgets and what is known of changes, and back. False for bytes that are none of this embedder's:
    /// everything is then as it was. Categories that are no more are passed over.
    std::string learning() const;
    bool restore_learning(std::string_view bytes);

    /// The ids that the filter names; they are gone afterwards unless `dry_run`. What was learnt stays, but where the
    /// filter names everything.
    std::vector<EntryId> invalidate(const EntryFilter& filter, bool dry_run);

    CacheCounts counts() const;
    const ErrorBudget& budget(std::size_t category) const { return learnt_[category].budget; }
    const Calibration& calibration(std::size_t category) const { return learnt_[category].calibration; }
    const CategoryAccount& account(std::size_t category) const { return learnt_[category].account; }
    const SemanticCacheOptions& options() const { return options_; }
    std::optional<std::string> tenant_of(EntryId entry) const;

    /// For operators and exports: every entry once, in no order.
    struct EntryView {
        EntryId id;
        const std::string& tenant;
        const std::string& category;
        const std::string& document;
        base::Duration age;
        double hits;
        std::size_t bytes;
    };
    void for_each(const std::function<void(const EntryView&)>& visit) const;

private:
    struct HashOfKey {
        std::size_t operator()(const base::BlockHash& hash) const { return static_cast<std::size_t>(hash.low); }
    };
    struct Entry {
        base::BlockHash partition;
        base::BlockHash exact;
        std::uint32_t row = 0;  // in the partition, where it has a vector
        bool has_vector = false;
        std::uint32_t category = 0;
        std::uint32_t tenant = 0;
        std::size_t in_order = 0;   // place in order_
        std::size_t in_tenant = 0;  // place in the tenant's list
        std::uint64_t meaning = 0;  // equal for answers that say the same: of the first one's words,
        std::uint64_t own = 0;      // and of its own
        std::string document;
        std::string revision;
        std::vector<std::string> tags;
        TextProfile profile;
        base::TimePoint created;
        base::Duration ttl{};
        float watched_s = 0;  // over which this question's answer was seen again, in this process,
        float changes = 0;    // and how often it was another one then
        double value = 0;     // hits, halved every hour
        base::TimePoint valued;
        double saved_s = 0;
        std::size_t bytes = 0;
    };
    struct Tenant {
        std::string name;
        std::size_t bytes = 0;
        std::vector<EntryId> entries;
    };
    struct Learnt {
        Calibration calibration;
        ErrorBudget budget;
        std::size_t bytes = 0;
        double asked_again = 0;  // after an answer's time, lately,
        double changed = 0;      // and then answered otherwise
        double watched_s = 0;    // the ages of those answers together
        CategoryAccount account = {};

        double changed_chance() const { return (changed + 1.0) / (asked_again + 2.0); }
    };

    bool alive(const Entry& entry, base::TimePoint now) const { return now - entry.created < entry.ttl; }
    /// Within the time that it has under such a load.
    bool may_serve(const Entry& entry, base::TimePoint now, double relief) const;
    /// That it has changed since: 0 within its time.
    double late_chance(const Entry& entry, base::TimePoint now) const;
    struct Neighbour {
        EntryId id{};
        const Entry* entry = nullptr;
        double similarity = 0;
        double vote = 0;        // for its answer: 1 for the nearest, less the farther away
        double words = 0;       // likeness of the hashed vectors, where a model's stand beside them
        double words_vote = 0;  // likewise by these
    };
    std::size_t kind_among(const Partition& partition, std::size_t kind) const;
    bool embed_probe(const Question& question, Probe& probe);
    /// Who says together what he says.
    struct Heard {
        std::vector<std::uint32_t> rows;  // of the partition
        std::vector<float> similarities;  // to the question
        std::vector<std::uint64_t> answers;
    };
    std::vector<Neighbour> neighbours(Lookup& found, const Partition& partition, base::TimePoint now, double relief,
                                      Heard& heard);
    const Neighbour& candidate_of(const Probe& probe, const std::vector<Neighbour>& passed) const;
    Evidence evidence_of(Probe& probe, const Neighbour& candidate, const std::vector<Neighbour>& passed) const;
    void weigh(Lookup& found, const Partition& partition, base::TimePoint now, double relief);
    void asked_again(const Entry& old, double age_s, bool is_same);
    /// Of an answer that was watched for so long and changed so often.
    base::Duration lifetime(const Entry& entry) const;
    struct Said {
        bool same = false;          // as the candidate
        std::uint64_t meaning = 0;  // that it is kept under
    };
    Said compare(const Probe& probe, const Answer& answer) const;
    bool says_same(EntryId entry, const Answer& answer) const;
    void learn(const Probe& probe, bool correct);
    void insert(const Question& question, const Probe& probe, const Answer& answer, std::uint64_t meaning,
                double saved_s, std::vector<std::string> tags);
    void serve(Lookup& found, EntryId id, Entry& entry, base::TimePoint now);
    void add(EntryId id, Entry entry, std::span<const float> vector);
    void remove(EntryId id);
    std::optional<base::BlockHash> remove_untold(EntryId id);
    SavedQuestion saved_of(const Entry& entry, std::vector<float> vector) const;
    void told_observation(ErrorBudget::State before, const ErrorBudget& budget);
    std::vector<Learnt> fresh_learnt() const;
    /// More is kept than may be without looking at who comes in.
    bool is_nearly_full() const;
    /// Of what is beyond its time the oldest goes, while the cache is nearly full; a few entries at the most.
    void sweep_expired();
    bool make_room(std::uint32_t tenant, std::uint32_t category, std::size_t bytes);
    bool evict_one(const std::vector<EntryId>& among, std::optional<std::uint32_t> category);
    static std::size_t bytes_of(const Entry& entry, std::size_t dimensions);
    double value_per_byte(const Entry& entry, base::TimePoint now) const;
    std::uint32_t tenant_index(const std::string& name);
    bool matches(const EntryFilter& filter, EntryId id, const Entry& entry, base::TimePoint now) const;

    SemanticCacheOptions options_;
    const base::Clock& clock_;
    Embedder& embedder_;
    const HashedEmbedder& hashed_;
    CategoryClassifier classifier_;
    bool has_model_ = false;  // vectors are blended()
    DotRows dot_rows_ = best_dot_rows();
    std::mt19937_64 random_;
    Doorkeeper doorkeeper_;
    Calibration everything_;      // of all categories
    std::vector<Learnt> learnt_;  // by category
    std::unordered_map<EntryId, Entry> entries_;
    std::unordered_map<base::BlockHash, EntryId, HashOfKey> exact_;
    std::unordered_map<base::BlockHash, Partition, HashOfKey> partitions_;
    std::vector<EntryId> order_;                               // all entries, for drawing one
    std::set<std::pair<base::TimePoint, EntryId>> by_expiry_;  // all entries, by the end of their time
    std::vector<Tenant> tenants_;
    std::unordered_map<std::string, std::uint32_t> tenant_of_name_;
    std::size_t bytes_ = 0;
    std::uint64_t next_id_ = 1;
    CacheCounts counts_;
    QuestionJournal* journal_ = nullptr;
    std::size_t untold_observations_ = 0;
};

}  // namespace caching
