#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "caching/in_context/example_index.h"
#include "caching/in_context/helpfulness.h"
#include "caching/in_context/options.h"
#include "caching/in_context/saved_example.h"

namespace caching {

/// An answer of the large model that may stand in a prompt of the small one.
struct Example {
    ExampleId id{};
    std::string tenant;
    base::BlockHash partition;
    base::BlockHash exact;  // of partition and question
    std::string question;
    std::string answer;
    std::string revision;  // of the weights that answered
    std::vector<std::string> tags;
    std::vector<std::string> words;  // of the question
    base::TimePoint created{};
    double answer_quality = 0.8;  // of the answer itself; until it was judged what large models' answers are worth
    // What became of it.
    double value = 0;  // offloads that it was part of, by their expected quality; decays by the hour
    base::TimePoint valued{};
    double gain = 0;  // IC-Cache's G: mean of (1 - quality) * cost, of the answers that it was used for
    std::uint64_t uses = 0;
    double record = 0.5;  // of judged answers that had it in their prompt: a half is as good as was expected of them
    double record_uses = 0;
    std::uint32_t replays = 0;
    std::size_t bytes = 0;
};

/// Which examples are meant. All that are given must hold.
struct ExampleFilter {
    std::optional<ExampleId> id = {};
    std::optional<std::string> tenant = {};
    std::optional<std::string> revision = {};
    std::optional<std::string> tag = {};
    std::optional<base::Duration> older_than = {};
    bool matches(const Example& example, base::TimePoint now) const;
};

/// Examples by hard partition, and the manager of them: what each has brought, which go when there are too many, which
/// are worth being answered again. Bounded in number and bytes, altogether and for each tenant. Deterministic. Not
/// thread-safe.
/// Source: IC-Cache (SOSP 2025), section 4.3.
class ExampleBook {
public:
    /// `clock` must outlive it.
    ExampleBook(const InContextOptions& options, const base::Clock& clock, std::size_t dimensions);

    struct New {
        std::string_view tenant;
        base::BlockHash partition;
        std::string_view question;
        std::string_view answer;
        std::string_view revision;
        std::vector<std::string> tags = {};
        std::span<const float> vector;  // of the question
        double answer_quality = 0.8;
    };
    enum class Added { kept, replaced, worse, too_large, empty, no_room };
    /// The same question again replaces its answer, unless that was better.
    Added add(const New& example);

    const Example* find(ExampleId id) const;
    /// By partition and question.
    bool has(const base::BlockHash& exact) const { return exact_.contains(exact); }
    /// Null: nothing is in it.
    ExampleIndex* index(const base::BlockHash& partition);

    /// It stands in the prompt of an answer of the small model, whose quality is expected to be so.
    void used(ExampleId id, double expected_quality);
    /// Such an answer was judged. `expected`: what the router had thought, so that an example of a hard topic is not
    /// blamed for it. `cost`: of the model that answered, the large one's being 1.
    void judged(ExampleId id, double quality, double expected, double cost);
    /// The example's own answer was judged.
    void answer_judged(ExampleId id, double quality);

    /// What is most worth being answered again by the large model when it is idle, the most first: used, by gain, not
    /// replayed too often. Whoever replays stops where it has brought no further offloading (IC-Cache).
    std::vector<ExampleId> replay_candidates(std::size_t limit) const;
    /// The large model has answered it again; the better answer stays. True when it is the new one. A quality that is
    /// no number: there is no answer to keep, and it counts as a replay all the same.
    bool replayed(ExampleId id, std::string_view answer, double quality);

    /// How many are meant; they are gone afterwards unless `dry_run`.
    std::size_t remove(const ExampleFilter& filter, bool dry_run);
    void for_each(const std::function<void(const Example&)>& visit) const;
    /// Value now, after its decay.
    double value_of(const Example& example) const;
    HelpfulnessEvidence evidence(const Example& example, double similarity, std::span<const std::string> words) const;

    /// From here on what changes is remembered for take_changes().
    void track_changes() { tracks_ = true; }
    /// What a store must be told since the last time. Standings come once so many have changed, or all of them
    /// (`all_standings`): each request changes some.
    ExampleChanges take_changes(bool all_standings);
    /// What an earlier life has kept, with its vector; the older ones first. False for what is not taken: damaged or of
    /// another key, beyond today's bounds, or there already. Nothing is pushed out for it.
    bool restore(const SavedExample& saved, std::span<const float> vector);

    struct Counts {
        std::size_t examples = 0;
        std::size_t bytes = 0;
        std::size_t partitions = 0;
        std::size_t clusters = 0;
        std::uint64_t evicted = 0;
    };
    Counts counts() const;
    std::size_t partitions() const { return partitions_.size(); }

private:
    struct Owner {
        std::size_t bytes = 0;
        std::size_t examples = 0;
    };
    void erase(ExampleId id);
    /// Keeps of these, of all or of one tenant's, what is worth most in nine tenths of the bounds.
    void make_room(const std::string* tenant, std::size_t bytes_max, std::size_t examples_max);
    /// After an answer has become longer: what is worth least goes, maybe this one.
    void keep_within_bounds(const std::string& tenant);
    std::size_t tenant_bytes_max() const;
    std::size_t tenant_examples_max() const;
    void credit(Example& example, double value);
    /// `text`: what the example says has changed, or it has come or gone; else only what it has brought.
    void changed(const Example& example, bool text);
    /// Into all tables; its vector, too.
    void place(Example example, std::span<const float> vector);
    base::BlockHash exact_of(const base::BlockHash& partition, std::string_view question) const;
    SavedExample saved_of(const Example& example) const;
    ExampleStanding standing_of(const Example& example) const;

    InContextOptions options_;
    const base::Clock& clock_;
    std::size_t dimensions_;
    std::unordered_map<ExampleId, Example> examples_;
    std::unordered_map<base::BlockHash, ExampleId> exact_;
    std::unordered_map<base::BlockHash, std::unique_ptr<ExampleIndex>> partitions_;
    std::unordered_map<std::string, Owner> owners_;
    std::size_t bytes_ = 0;
    std::uint64_t next_ = 1;
    std::uint64_t evicted_ = 0;
    bool tracks_ = false;
    std::unordered_set<base::BlockHash> texts_changed_;      // exact names; also of those that are gone
    std::unordered_set<base::BlockHash> standings_changed_;  // of those that are there
};

}  // namespace caching
