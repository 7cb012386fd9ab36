#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "caching/exact/write_quota.h"
#include "caching/in_context/example_pack.h"
#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/embedder.h"
#include "caching/store/write_behind.h"
#include "gateway/cache/in_context_options.h"
#include "gateway/cache/routed_ask.h"
#include "gateway/request/models.h"
#include "gateway/request/ports.h"
#include "gateway/stages.h"

namespace gateway {

/// The in-context cache of a gateway. Decides on text threads, before a form becomes tokens; learns on a thread of its
/// own, behind a bounded queue, which also takes in what an earlier life has kept. Any thread.
class LiveExamples final : public FormRewriter {
public:
    struct Setup {
        const InContextSettings& settings;  // borrowed, like all references here
        const Models& models;
        base::HashKey key;
        base::Metrics& metrics;
        const base::Clock& clock;
        Post post;                                     // answers of what operators ask
        std::size_t writes_per_minute = 0;             // of one tenant's examples; 0: no bound
        caching::WriteBehind* store = nullptr;         // where they are kept; null: in memory only
        std::vector<caching::SavedExample> kept = {};  // of an earlier life, the oldest first
        std::string learning = {};                     // likewise, InContextCache::learning(); empty: nothing
    };
    explicit LiveExamples(Setup setup);
    ~LiveExamples() override;

    /// A request for the routed name gets its model, and examples where the small one answers. Others are left alone.
    /// What is no single question goes to the large model. Never an error of its own.
    ApiResult<void> rewrite(RequestForm& form, const RewriteContext& context) const override;

    /// Sequences that the large model has in work.
    void large_in_work(std::size_t sequences) { large_in_work_.store(sequences, std::memory_order_relaxed); }
    /// The weights that answer, by their revision_name(); empty: nobody knows.
    void served_by(const std::string& small, const std::string& large);
    /// The large model has answered.
    void keep(std::shared_ptr<const caching::InContextQuestion> question, std::string answer, std::string revision,
              std::vector<std::string> tags);
    /// Both have: what the small one's is worth is how much it is like the large one's (there is no judge of answers).
    void compare(std::shared_ptr<const caching::InContextDecision> decision, const std::string& small,
                 const std::string& large);
    /// A comparison; outcome: begun, busy, failed.
    void comparison(std::string_view outcome) const;

    /// An example that the large model shall answer again.
    struct Replay {
        caching::InContextCache::Replay what;
        std::shared_ptr<const RequestForm> asked;  // a single question, asked as those of this partition are

        /// Another question in the same way; with this example in the prompt, where it has a question.
        RequestForm form(std::size_t model, const std::string& question, caching::ShownExample shown) const;
    };
    /// What was said then.
    struct ReplayedAnswer {
        caching::InContextCache::Replay replay;
        std::string answer = {};               // the large model's; empty: none that could be an example
        std::vector<std::string> before = {};  // by the small one to the trials, with the answer that there was,
        std::vector<std::string> after = {};   // and with the new one

        bool is_same() const;
    };
    /// The example that is most worth it, of those whose way of being asked is known and that are of today's weights,
    /// but for `passed`. False, here and below, when too many tasks wait: `done` is then never called.
    [[nodiscard]] bool next_replay(std::vector<caching::ExampleId> passed,
                                   std::function<void(std::optional<Replay>)> done);
    /// Keeps the better answer. `done` hears: better, no_better, same, gone, failed.
    [[nodiscard]] bool replayed(ReplayedAnswer answered, std::function<void(std::string_view outcome)> done);

    /// Of one example, as operators see it.
    struct View {
        std::uint64_t id = 0;
        std::string tenant;
        std::string revision;
        std::vector<std::string> tags;
        std::int64_t age_s = 0;
        std::uint64_t uses = 0;
        double value = 0;
        double gain = 0;
        std::uint32_t replays = 0;  // how often it was answered again
        std::size_t bytes = 0;
        std::string question;
        std::string answer;
    };
    struct Listed {
        std::vector<View> shown;  // the most valuable first
        std::size_t total = 0;
    };
    /// False, here and below, when too many tasks wait: `done` is then never called.
    [[nodiscard]] bool list(caching::ExampleFilter filter, std::size_t limit, std::function<void(Listed)> done);
    [[nodiscard]] bool purge(caching::ExampleFilter filter, bool dry_run, std::function<void(std::size_t)> done);
    [[nodiscard]] bool stand(std::function<void(caching::InContextCache::Counts)> done);

    std::size_t large() const { return large_; }
    std::size_t small() const { return small_; }
    const InContextSettings& settings() const { return setup_.settings; }

private:
    using Task = std::function<void(caching::InContextCache&)>;
    void work();
    void restore();
    /// Tells the store what has changed.
    void save(caching::ExampleChanges changes);
    void decide(RequestForm& form, const RewriteContext& context, RoutedAsk& routed) const;
    void told(const caching::InContextCache::Counts& counts) const;
    /// How questions of a partition are asked, where that is not known. Guarded by mutex_.
    void remember(const base::BlockHash& partition, const RequestForm& form, std::size_t question_bytes) const;

    Setup setup_;
    std::size_t small_ = 0;  // of the models
    std::size_t large_ = 0;
    caching::HashedEmbedder embedder_;
    std::atomic<std::size_t> large_in_work_{0};
    mutable std::mutex mutex_;  // guards what follows
    std::string served_small_;  // served_by()
    std::string served_large_;
    mutable std::unordered_map<base::BlockHash, std::shared_ptr<const RequestForm>> asked_;  // by partition, and
    mutable std::deque<base::BlockHash> asked_order_;                                        // the oldest first
    mutable caching::InContextCache cache_;
    caching::WriteQuota quota_;              // the thread's alone; so is the next
    std::vector<base::BlockHash> unerased_;  // the store could not take them yet: they go with the next
    base::BoundedQueue<Task> tasks_;
    std::jthread thread_;
};

/// How much an answer is like another: 1 for the same but for blanks, else by the cosine of their vectors, below 1.
double answer_likeness(const caching::HashedEmbedder& embedder, const std::string& one, const std::string& other);

}  // namespace gateway
