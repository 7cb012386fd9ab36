#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "caching/in_context/example_book.h"
#include "caching/in_context/helpfulness.h"
#include "caching/in_context/options.h"
#include "caching/in_context/quality_memory.h"
#include "caching/in_context/router.h"

namespace caching {

/// A request that the small model may answer with examples.
struct InContextQuestion {
    std::string tenant;  // whose examples it may get: never another's
    std::string scope;   // what else must be equal for an example to fit: system prompt, tools, form of the answer
    std::string text;    // what is asked
    std::vector<float> vector;  // of the text, length 1
};

/// The examples of one request.
struct ChosenExamples {
    std::vector<ExampleId> examples;            // in the order of the prompt: a pack's, then others; the older first
    std::vector<HelpfulnessEvidence> evidence;  // of each
    std::uint64_t pack = 0;                     // that the first are; 0: all are chosen for this request alone
    std::size_t pack_examples = 0;
    double similarity_best = 0;
    double overlap_best = 0;
    double helpfulness_mean = 0;
    double helpfulness_best = 0;
    std::size_t threshold = 0;  // which one was in use
    std::string rendered;       // the block for the prompt; empty: none
};

/// Who answers a request, with what, and what must be known again when the answer is judged.
struct InContextDecision {
    base::BlockHash partition;
    std::optional<ClusterId> cluster;
    std::vector<float> vector;  // the question's
    ChosenExamples chosen;
    RouterFeatures features{};
    Router::Choice route;
};

/// What was found out about the answers to one request: each 0 to 1.
struct InContextFeedback {
    std::optional<double> small;  // of the small model with the decision's examples
    std::optional<double> large;
};

/// The in-context cache: answers of a large model become examples in the prompts of a small one, and a router decides
/// which of the two answers. Pure: no thread, no file, no socket. Not thread-safe.
/// Source: IC-Cache (SOSP 2025, arXiv 2501.12689). Beyond it: hard partitions, examples as data between marks, packs
/// that stay the same so that their KV is a cached prefix, and an account of quality.
class InContextCache {
public:
    /// `clock` must outlive it. `models`: both by name; what was learnt of others is not taken.
    InContextCache(InContextOptions options, const base::Clock& clock, std::size_t dimensions, std::string models = {});

    /// The large model's load now: 1 is all that it can do.
    void see_load(double load) { meter_.see(load, clock_.now()); }
    InContextDecision decide(const InContextQuestion& question, Router::Allowed allowed = {});

    /// The large model has answered: an example from now on, unless it is personal, too long, or worse than the one
    /// there is.
    enum class Kept { kept, replaced, worse, too_large, empty, no_room, personal };
    Kept keep(const InContextQuestion& question, std::string_view answer, std::string_view revision,
              std::vector<std::string> tags = {});
    void judge(const InContextDecision& decision, const InContextFeedback& feedback);

    /// An example that the large model shall answer again, and what its answers are tried on.
    struct Replay {
        ExampleId example{};
        std::string tenant;
        base::BlockHash partition;
        std::string question;
        std::string answer;  // that there is
        struct Trial {
            std::string question;
            std::string answer;  // of the large model
        };
        std::vector<Trial> trials;  // of the same partition, the nearest first
    };
    /// The most worthwhile example (ExampleBook::replay_candidates) that `may_be` lets and that there is something to
    /// try it on. There is no judge of answers, and needs none to be: an example is worth what the small model makes of
    /// it, which is seen at questions next to it that the large model has answered.
    std::optional<Replay> next_replay(const std::function<bool(const Example&)>& may_be);
    enum class Replayed { better, no_better, gone };
    /// It has been answered again; `better`: how much more the new answer was worth in trials; no number: there is no
    /// answer that could be kept. `gone`: the example, or the answer that this one was compared with.
    Replayed replayed(const Replay& replay, std::string_view answer, double better);

    /// What an earlier life has kept, the older ones first; `vector`: of its question. False: it is not taken
    /// (ExampleBook::restore, or it is personal by today's rules).
    bool restore(const SavedExample& saved, std::span<const float> vector);

    /// What router and selector have learnt, sealed under the key: numbers, and the vectors of the last judged
    /// questions, without their texts or whose they are. At most about 0.9 MB.
    std::string learning() const;
    /// learning() of an earlier life. False, and nothing changes: it is damaged, of another key or form, or of other
    /// models.
    bool restore_learning(std::string_view given);
    /// learning(), once enough has been judged since the last time (`all`: anything).
    std::optional<std::string> take_learning(bool all);
    /// The weights that answer for an arm now. Where they are none of the last few, most of what was learnt of the arm
    /// is forgotten at once (where they are one of them, what is seen tells). Empty: nobody knows.
    void served_by(Arm arm, std::string_view revision);

    /// Examples that are gone at once are in no prompt that is decided on afterwards.
    std::size_t remove(const ExampleFilter& filter, bool dry_run) { return book_.remove(filter, dry_run); }
    ExampleBook& book() { return book_; }
    const ExampleBook& book() const { return book_; }
    const Router& router() const { return router_; }
    const LoadMeter& meter() const { return meter_; }
    const InContextOptions& options() const { return options_; }
    double threshold() const { return threshold_.best(); }
    struct Counts {
        ExampleBook::Counts book;
        std::uint64_t small = 0;
        std::uint64_t large = 0;
        std::uint64_t comparisons = 0;
        std::uint64_t with_pack = 0;
        std::uint64_t model_changes = 0;
        double account = 0;
        double load = 0;
    };
    Counts counts() const;
    base::BlockHash partition_of(std::string_view tenant, std::string_view scope) const;

private:
    /// What was seen around one cluster.
    struct Corner {
        std::unordered_map<ExampleId, double> demand;  // how much each was chosen for itself
        std::vector<ExampleId> pack;
        std::uint64_t pack_id = 0;
        std::uint32_t pack_uses = 0;
        std::uint32_t pack_refusals = 0;  // requests that it would not have helped
    };
    using Corners = std::unordered_map<ClusterId, Corner>;
    struct Scored {
        ExampleId id{};
        HelpfulnessEvidence evidence;
        double helpfulness = 0;
    };

    ChosenExamples choose(const InContextQuestion& question, ExampleIndex& index, Corner& corner);
    std::vector<Scored> select(const InContextQuestion& question, const std::vector<std::string>& words,
                               ExampleIndex& index, double at_least) const;
    /// The examples of the corner's pack for this question; empty unless each of them is expected to help.
    std::vector<Scored> pack_for(const InContextQuestion& question, const std::vector<std::string>& words,
                                 const ExampleIndex& index, const Corner& corner, double at_least) const;
    /// Behind the pack, the most helpful first, what was chosen and says something else, as far as there is room.
    void add_others(std::vector<Scored>& pack, const std::vector<Scored>& chosen, const ExampleIndex& index) const;
    void renew_pack(Corner& corner, const ExampleIndex& index);
    void hear_of_changes();
    void forget_gone_corners(const base::BlockHash& partition);
    std::string render(const std::vector<ExampleId>& examples, const std::string& tenant) const;

    InContextOptions options_;
    const base::Clock& clock_;
    std::size_t dimensions_;
    std::string models_;
    std::mt19937_64 random_;
    ExampleBook book_;
    HelpfulnessProxy proxy_;
    HelpfulnessThreshold threshold_;
    Router router_;
    LoadMeter meter_;
    QualityMemory memory_;
    std::vector<std::string> revisions_[2];  // of the last weights that answered for small and large
    std::uint64_t untold_ = 0;               // judged since take_learning()
    std::uint64_t changes_small_ = 0;        // that memory_ has heard of
    std::uint64_t changes_large_ = 0;
    std::unordered_map<base::BlockHash, Corners> corners_;
    std::uint64_t next_pack_ = 1;
    std::uint64_t with_pack_ = 0;
};

}  // namespace caching
