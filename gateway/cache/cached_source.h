#pragma once

#include <cstddef>
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
#include "caching/exact/answer_book.h"
#include "caching/exact/common_answers.h"
#include "caching/exact/write_quota.h"
#include "caching/store/shared_answers.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/cache_metrics.h"
#include "gateway/cache/cache_options.h"
#include "gateway/cache/pool_relief.h"
#include "gateway/cache/served_vectors.h"
#include "gateway/cache/similar_answers.h"
#include "gateway/cache/tenant_sums.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// A source of sequences in front of the model's: what was answered before is answered again, equal requests at one
/// time share one run, the rest goes on. Sequences whose request has no CacheAsk pass through untouched. I/O thread
/// only; no call takes longer than a look into a table and a copy of an answer.
///
/// A *run* is one sequence at the model, owned here and by no client: its *members* hear what it says from the
/// beginning, whenever they came; one that leaves does not stop it as long as another is there. A run that fails is
/// begun anew for its other members, from the request of one of them; who has heard the beginning goes on hearing where
/// it was, or gets an error when the new run says something else. Where an answer that several tenants got may be given
/// to others and nobody is to tell, a run *plays* it: it says what the model said, as slowly (common_runs.cpp).
class CachedSource final : public SequenceSource {
public:
    struct Setup {
        SequenceSource& inner;  // the model's; borrowed, like all references here
        caching::AnswerBook& book;
        SimilarAnswers* similar = nullptr;         // null: equal requests only
        ServedVectors* vectors = nullptr;          // null: questions are compared without a model
        caching::SharedAnswers* shared = nullptr;  // null: this gateway keeps its own only
        caching::CommonAnswers* common = nullptr;  // null: every tenant has its own
        PoolRelief* relief = nullptr;              // null: bounds do not follow the load
        const CacheOptions& options;
        CacheMetrics& metrics;
        const base::Clock& clock;
        Post post;  // to this thread, later
        Wake wake = {};
        // An answer is to be kept; the moment: up to when it knows of purges.
        std::function<void(const caching::SavedAnswer&, const caching::SharedMoment&)> keep = {};
    };
    explicit CachedSource(Setup setup);
    /// Every member must have had its end; stop() ends what has none.
    ~CachedSource() override;

    bool has_room(std::size_t count) const override { return setup_.inner.has_room(count); }
    base::RequestId open(GenerationRequest request, GenerationSink& sink) override;
    void cancel(base::RequestId id, std::string_view cause) override;

    /// Gives up searches that take too long, says what is to be said now; when there is more to do.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// What is in work now and is meant: neither kept nor joined from here on.
    void purge(const caching::AnswerFilter& filter);
    /// Ends runs that nobody waits for. Nothing is opened afterwards.
    void stop();
    std::size_t waiters() const { return waiters_; }
    std::size_t runs() const { return runs_.size(); }
    const TenantSums& tenants() const { return tenants_; }

private:
    struct Run;
    struct Member {
        Run* run = nullptr;
        GenerationSink* sink = nullptr;
        GenerationRequest request;
        bool is_placed = false;  // was told so
        bool has_text = false;   // has heard of a token
        bool is_ahead = false;   // heard more, of a run that failed, than this one has said
        std::size_t heard_bytes = 0;
        bool is_leader = false;  // the run is its own request
        std::optional<base::TimePoint> heard_at = {};
    };
    using Members = std::unordered_map<base::RequestId, Member>;

    base::RequestId add_member(GenerationRequest request, GenerationSink& sink);
    Run& make_run(const CacheAsk& ask);
    void join(Run& run, base::RequestId id);
    void leave(base::RequestId id, const GenerationEnd& end);
    bool may_join(const Run& run) const;
    /// Whether what is kept here may be served: nothing of it can have been purged elsewhere.
    bool is_current() const { return setup_.shared == nullptr || setup_.shared->is_current(); }
    /// The other gateways' answers. False: they are not asked.
    bool ask_shared(Run& run);
    void shared_found(std::uint64_t number, const std::optional<caching::SavedAnswer>& answer);
    /// Similar questions, then the model.
    void search(Run& run);
    /// `vector`: of its question by an encoder; null: there is none.
    void look_up(std::uint64_t number, const SharedVector& vector);
    /// To the model, by the request of its first member.
    void start(Run& run);
    void similar_found(std::uint64_t number, const std::optional<SimilarAnswer>& answer, caching::Probe probe);
    /// An answer that is there already, whole.
    void give(base::RequestId id, const caching::SavedText& answer);
    void give_kept(base::RequestId id, const caching::SavedAnswer& kept, CacheOutcome outcome);
    /// What several other tenants were answered alike, and this one may have. Null: nothing, or it must not be told
    /// that there is.
    const caching::CommonAnswer* common_for(const CacheAsk& ask);
    void give_common(base::RequestId id, const caching::CommonAnswer& common);
    /// The run says it in the model's place, in the model's time.
    void play(Run& run, const caching::CommonAnswer& common);
    void play_on(Run& run);
    /// What is played and has said nothing yet goes to the model: it may be among what was purged.
    void stop_playing();
    /// It is common knowledge as far as this tenant's answer tells.
    void tell_common(const Run& run, const caching::SavedAnswer& answer);
    void note_spoken(Run& run, std::uint32_t tokens) const;
    /// tick() looks at it then; empty: never.
    void set_due(Run& run, std::optional<base::TimePoint> at);
    bool is_past(const caching::SavedAnswer& kept) const { return kept.expires_unix_us <= setup_.clock.unix_us(); }
    void fail_member(base::RequestId id, const base::Error& error, std::uint32_t retry_after_ms);
    bool serve_stale(base::RequestId id);
    /// What is kept for it and may be served under such a load of its model's pool.
    const caching::SavedAnswer* fresh(const CacheAsk& ask, double relief);

    void on_placed(Run& run);
    void on_text(Run& run, std::string_view text, std::uint32_t tokens, std::string_view path);
    void on_end(Run& run, const GenerationEnd& end);
    void run_failed(Run& run, const GenerationEnd& end);
    void keep(Run& run, const caching::SavedText& answer);
    void begin_shadow(const GenerationRequest& request, std::shared_ptr<const caching::Question> question,
                      caching::Probe probe);
    /// Out of the tables now; gone when what is on the stack has been done.
    void drop(Run& run);
    /// What became of a request is known.
    void decided(const CacheAsk& ask, double saved_s);
    void tell_standing();
    Run* run_of(std::uint64_t number);

    Setup setup_;
    caching::WriteQuota quota_;
    std::mt19937_64 random_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Run>> runs_;  // by number
    std::unordered_map<base::BlockHash, std::uint64_t> joinable_;   // runs that further members may join
    std::set<std::pair<base::TimePoint, std::uint64_t>> due_;       // runs, by when something is to be done
    Members members_;
    TenantSums tenants_;
    std::uint64_t next_run_ = 1;
    std::size_t waiters_ = 0;
    std::size_t shadows_ = 0;
    std::size_t playing_ = 0;
    bool is_stopped_ = false;
};

}  // namespace gateway
