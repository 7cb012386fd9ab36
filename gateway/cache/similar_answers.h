#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "caching/exact/answer_book.h"
#include "caching/semantic/semantic_cache.h"
#include "caching/store/write_behind.h"
#include "gateway/request/ports.h"

namespace gateway {

/// An answer to a similar question.
struct SimilarAnswer {
    caching::SavedText answer;
    std::uint64_t entry = 0;
    double similarity = 0;
    double saved_s = 0;  // of the model
    std::int64_t age_s = 0;
    bool is_exact = false;       // equal but for blanks
    bool is_late = false;        // beyond its time, and
    bool is_relieved = false;    // served because the model's workers have too much to do
    bool shadow_wanted = false;  // the model shall answer, too, for comparison
};

/// What a category of questions has come to.
struct CategoryStanding {
    std::string name;
    std::uint64_t hits_exact = 0;
    std::uint64_t hits_similar = 0;
    std::uint64_t shadows = 0;
    std::uint64_t shadow_errors = 0;
    double wrong_at_most = 0;  // of hits by similarity; holds at every moment with 95 %
    bool is_exact_only = false;
    double earned_s = 0;         // of the model, by hits by similarity,
    double spent_s = 0;          // and by their search and by generating again
    bool is_in_deficit = false;  // and therefore searched seldom
};

/// The semantic cache on a thread of its own, behind a bounded queue: nobody who asks waits for it. Answers come back
/// by `post`. Any thread.
class SimilarAnswers {
public:
    struct Setup {
        caching::SemanticCacheOptions options;
        std::size_t tasks_max = 256;
        std::string encoder = {};               // whose vectors look_up() is given; empty: none, and no model is needed
        const base::Clock& clock;               // borrowed
        Post post;                              // to who asked
        caching::WriteBehind* store = nullptr;  // where it is kept; null: in memory only
        std::vector<caching::SavedQuestion> kept = {};  // of an earlier life, the oldest first,
        std::string learning = {};                      // and what that had learnt
    };
    using Found = std::function<void(std::optional<SimilarAnswer> answer, caching::Probe probe)>;
    struct Standing {
        caching::CacheCounts counts;
        std::vector<CategoryStanding> categories;
    };

    explicit SimilarAnswers(Setup setup);
    ~SimilarAnswers();

    /// `relief`: how far bounds give way for the load. `vector`: of the question, by the encoder; null: there is none,
    /// and where there should be one only an equal question is found. False when too many wait: `found` is then never
    /// called.
    [[nodiscard]] bool look_up(std::shared_ptr<const caching::Question> question, double relief,
                               std::shared_ptr<const std::vector<float>> vector, Found found);
    /// The model has answered what look_up() missed. False when too many wait.
    bool store(std::shared_ptr<const caching::Question> question, caching::Probe probe,
               const caching::SavedText& answer, double saved_s, std::vector<std::string> tags);
    /// The model has answered what was served by similarity.
    bool observe_shadow(std::shared_ptr<const caching::Question> question, caching::Probe probe,
                        const caching::SavedText& answer);
    /// `done` hears how many are meant; they are gone unless `dry_run`. `is_wrong`: an answer was, and counts as an
    /// error of its category. False when too many wait.
    [[nodiscard]] bool purge(caching::EntryFilter filter, bool dry_run, bool is_wrong,
                             std::function<void(std::size_t)> done);
    [[nodiscard]] bool stand(std::function<void(Standing)> done);

private:
    using Task = std::function<void(caching::SemanticCache&, const caching::HashedEmbedder&)>;
    bool push(Task task) { return tasks_.push(std::move(task)); }
    void work();
    void restore(caching::SemanticCache& cache, caching::QuestionJournal& journal);

    Setup setup_;
    base::BoundedQueue<Task> tasks_;
    std::jthread thread_;
};

}  // namespace gateway
