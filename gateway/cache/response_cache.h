#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "caching/exact/answer_book.h"
#include "caching/exact/common_answers.h"
#include "caching/store/shared_answers.h"
#include "caching/store/sqlite_store.h"
#include "caching/store/write_behind.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/cache_metrics.h"
#include "gateway/cache/cache_options.h"
#include "gateway/cache/cache_request.h"
#include "gateway/cache/cached_source.h"
#include "gateway/cache/example_replay.h"
#include "gateway/cache/live_examples.h"
#include "gateway/cache/pool_relief.h"
#include "gateway/cache/routed_source.h"
#include "gateway/cache/served_vectors.h"
#include "gateway/cache/similar_answers.h"
#include "gateway/request/models.h"

namespace gateway {

/// The cache as a gateway has it: the only thing of this folder that the rest of the gateway works with. Made only
/// where `caching.enabled` is true. I/O thread only, but for name() and rewriters().
class ResponseCache {
public:
    struct Setup {
        const CacheOptions& options;  // borrowed, like all references here
        const Models& models;
        base::HashKey hash_key;            // of names, where no store brings its own
        const std::vector<double>& loads;  // RequestTable::loads()
        SequenceSource& inner;             // of what is not there
        base::Metrics& metrics;
        const base::Clock& clock;
        Post post;
        Wake wake = {};
    };
    /// Reads what the store has kept. A store that cannot be used is told of and done without.
    explicit ResponseCache(Setup setup);
    ~ResponseCache();

    /// In front of `inner`.
    SequenceSource& source() { return *source_; }
    /// Before a form is prepared; on text threads.
    std::vector<const FormRewriter*> rewriters() const;
    /// The request at the door. Error: 400, as read_cache_ask().
    static ApiResult<std::shared_ptr<CacheAsk>> ask(const RequestHead& head) { return read_cache_ask(head); }
    /// The prepared request; on text threads. `clusters`: by model; `model`: that it would go to.
    void name(CacheAsk& ask, const PreparedRequest& prepared, std::string_view tenant,
              const std::vector<ClusterView>& clusters, std::size_t model) const;

    /// For requests of its own, that no client waits for; without it there are none.
    void prepares(PrepareForm prepare) {
        if (replay_) { replay_->prepares(std::move(prepare)); }
    }
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// Before the source behind it goes. Runs that only compare end.
    void stop();

    /// What operators may ask for.
    struct Purge {
        bool equal = true;                           // answers to equal requests,
        bool similar = true;                         // and to similar questions,
        bool examples = true;                        // and examples for a small model
        caching::AnswerFilter filter = {};           // of the first
        caching::EntryFilter similar_filter = {};    // of the second
        caching::ExampleFilter example_filter = {};  // of the third
        bool dry_run = false;
        bool is_wrong = false;  // counts as an error of its category
    };
    struct Purged {
        std::size_t equal = 0;
        std::size_t similar = 0;
        std::size_t examples = 0;
    };
    /// Errors: resource_exhausted when the similar ones have too much to do; unavailable when it is done here, and
    /// other gateways may not hear of it.
    void purge(const Purge& purge, std::function<void(base::Result<Purged>)> done);
    /// Of what is off there is nothing in it. Metrics are written anew.
    struct Standing {
        std::optional<SimilarAnswers::Standing> similar = {};
        std::optional<caching::InContextCache::Counts> examples = {};
    };
    void stand(std::function<void(base::Result<Standing>)> done);
    /// Likewise; what would have to be waited for, of categories of questions, is there when this is called again.
    void refresh_metrics();
    /// Null: no name has two models.
    LiveExamples* examples() { return examples_.get(); }
    const caching::AnswerBook& book() const { return book_; }
    const CachedSource& runs() const { return *source_; }
    const caching::WriteBehind* store() const { return store_.get(); }
    /// Null: every tenant has its own.
    const caching::CommonAnswers* common() const { return common_.get(); }
    /// Null: this gateway keeps its own only.
    const caching::SharedAnswers* shared() const { return shared_.get(); }
    const CacheOptions& options() const { return setup_.options; }
    std::int64_t unix_us() const { return setup_.clock.unix_us(); }

private:
    void keep(const caching::SavedAnswer& answer, const caching::SharedMoment& since);
    void refresh_counts();
    void tell_categories(const SimilarAnswers::Standing& standing);
    void open_shared();
    void open_encoder();
    void open_replay();
    bool hear(const caching::SharedPurge& purge);
    bool forget();
    void tell_others(const Purge& purge, const std::vector<base::BlockHash>& keys, Purged purged,
                     const std::function<void(base::Result<Purged>)>& done);
    void erase_stored(std::vector<base::BlockHash> keys);
    void purge_common(const caching::AnswerFilter& filter);
    void open_store();
    std::vector<base::BlockHash> load_questions(caching::SqliteStore& store);
    std::vector<base::BlockHash> load_examples(caching::SqliteStore& store);

    Setup setup_;
    base::HashKey key_;
    CacheMetrics metrics_;
    CacheTextReader text_reader_;
    caching::AnswerBook book_;
    std::unique_ptr<caching::CommonAnswers> common_;    // null: every tenant has its own
    std::unique_ptr<caching::WriteBehind> store_;       // null: in memory only
    std::vector<base::BlockHash> unerased_;             // of answers that are gone: the store could not take them yet
    std::vector<caching::SavedQuestion> questions_;     // of an earlier life, for similar_; then empty
    std::string learning_;                              // likewise
    std::vector<caching::SavedExample> kept_examples_;  // likewise, for examples_
    std::string example_learning_;                      // likewise
    std::unique_ptr<SimilarAnswers> similar_;           // null: equal requests only
    bool is_asked_for_categories_ = false;              // similar_ has been, and has not answered yet
    std::optional<std::size_t> encoder_;                // the model that compares questions
    std::unique_ptr<ServedVectors> vectors_;            // null: none does
    std::unique_ptr<PoolRelief> relief_;                // null: bounds stay where they are
    std::unique_ptr<LiveExamples> examples_;            // null: no name has two models; so is the next
    std::unique_ptr<RoutedSource> routed_;
    std::unique_ptr<ExampleReplay> replay_;           // null: examples are not answered again
    std::unique_ptr<caching::SharedAnswers> shared_;  // null: this gateway keeps its own only
    std::unique_ptr<CachedSource> source_;
};

}  // namespace gateway
