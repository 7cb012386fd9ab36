#include "gateway/cache/similar_answers.h"

#include <utility>

#include "base/log.h"
#include "caching/semantic/words.h"

namespace gateway {
namespace {

caching::Answer answer_of(const caching::SavedText& saved) {
    caching::Answer answer;
    answer.content = saved.text;
    answer.finish_reason = saved.is_cut ? "length" : "stop";
    answer.stop_string = saved.stop_string;
    answer.stop_token = saved.stop_token;
    answer.prompt_tokens = saved.prompt_tokens;
    answer.cached_tokens = saved.cached_tokens;
    answer.completion_tokens = saved.completion_tokens;
    answer.reasoning_tokens = saved.reasoning_tokens;
    return answer;
}

std::optional<caching::SavedText> saved_of(const std::string& document) {
    const auto answer = caching::from_document(document);
    if (!answer) { return std::nullopt; }
    caching::SavedText saved;
    saved.text = answer->content;
    saved.stop_string = answer->stop_string;
    if (answer->stop_token) { saved.stop_token = static_cast<base::TokenId>(*answer->stop_token); }
    saved.prompt_tokens = static_cast<std::uint32_t>(answer->prompt_tokens);
    saved.cached_tokens = static_cast<std::uint32_t>(answer->cached_tokens);
    saved.completion_tokens = static_cast<std::uint32_t>(answer->completion_tokens);
    saved.reasoning_tokens = static_cast<std::uint32_t>(answer->reasoning_tokens);
    return saved;
}

SimilarAnswers::Standing standing_of(const caching::SemanticCache& cache) {
    SimilarAnswers::Standing standing{.counts = cache.counts(), .categories = {}};
    const auto& categories = cache.options().categories;
    for (std::size_t at = 0; at < categories.size(); ++at) {
        const caching::ErrorBudget& budget = cache.budget(at);
        standing.categories.push_back({.name = categories[at].name,
                                       .hits_exact = budget.hits_exact(),
                                       .hits_similar = budget.hits_semantic(),
                                       .shadows = budget.shadows(),
                                       .shadow_errors = budget.shadow_errors(),
                                       .wrong_at_most = budget.bound().upper,
                                       .is_exact_only = budget.state() == caching::ErrorBudget::State::exact_only,
                                       .earned_s = cache.account(at).earned_s(),
                                       .spent_s = cache.account(at).spent_s(),
                                       .is_in_deficit = cache.account(at).is_in_deficit()});
    }
    return standing;
}

/// What the cache keeps goes to the store behind the cache's back.
class StoreJournal final : public caching::QuestionJournal {
public:
    explicit StoreJournal(caching::WriteBehind& store) : store_(store) {}
    void put(caching::SavedQuestion question) override { store_.push(std::move(question)); }
    void erase(std::vector<base::BlockHash> exact) override {
        unerased_.insert(unerased_.end(), exact.begin(), exact.end());
        if (!unerased_.empty() && store_.push(caching::ErasedQuestions{unerased_})) { unerased_.clear(); }
    }
    void learnt(std::string bytes) override { store_.push(caching::SavedLearning{std::move(bytes)}); }

private:
    caching::WriteBehind& store_;
    std::vector<base::BlockHash> unerased_;  // the store could not take them yet: they go with the next
};

}  // namespace

SimilarAnswers::SimilarAnswers(Setup setup)
    : setup_(std::move(setup)), tasks_(setup_.tasks_max), thread_([this] { work(); }) {}

SimilarAnswers::~SimilarAnswers() {
    tasks_.close();
}

void SimilarAnswers::work() {
    caching::HashedEmbedder hashed;
    caching::GivenVectors given(setup_.encoder, hashed);
    caching::Embedder& embedder = setup_.encoder.empty() ? static_cast<caching::Embedder&>(hashed) : given;
    caching::SemanticCache cache(setup_.options, setup_.clock, embedder, hashed);
    std::optional<StoreJournal> journal;
    if (setup_.store != nullptr) {
        journal.emplace(*setup_.store);
        restore(cache, *journal);
        cache.set_journal(&*journal);
    }
    while (const auto task = tasks_.pop(std::stop_token())) {
        (*task)(cache, hashed);
    }
    if (journal) {
        journal->erase({});
        journal->learnt(cache.learning());
    }
}

void SimilarAnswers::restore(caching::SemanticCache& cache, caching::QuestionJournal& journal) {
    if (!setup_.learning.empty() && !cache.restore_learning(setup_.learning)) {
        spdlog::warn("cache: what was learnt of similar questions is of another embedder, or damaged: it begins anew");
    }
    setup_.learning.clear();
    std::vector<base::BlockHash> gone;
    for (caching::SavedQuestion& one : std::exchange(setup_.kept, {})) {
        const base::BlockHash name = one.exact;
        if (!cache.restore(std::move(one))) { gone.push_back(name); }
    }
    spdlog::info("cache: {} questions that similar ones may get the answers of, from the store",
                 cache.counts().entries);
    if (!gone.empty()) { journal.erase(std::move(gone)); }
}

bool SimilarAnswers::look_up(std::shared_ptr<const caching::Question> question, double relief,
                             std::shared_ptr<const std::vector<float>> vector, Found found) {
    return push([this, question = std::move(question), relief, vector = std::move(vector), found = std::move(found)](
                    caching::SemanticCache& cache, const caching::HashedEmbedder& hashed) {
        std::vector<float> both;
        if (vector != nullptr) {
            both = caching::blended(*vector, hashed.embed_one(caching::canonical_text(caching::asked(*question))));
        }
        caching::Lookup lookup = cache.lookup(*question, relief, std::move(both));
        std::optional<SimilarAnswer> answer;
        if (lookup.kind != caching::HitKind::none) {
            if (auto saved = saved_of(lookup.document)) {
                answer = SimilarAnswer{.answer = std::move(*saved),
                                       .entry = static_cast<std::uint64_t>(lookup.entry),
                                       .similarity = lookup.kind == caching::HitKind::exact ? 1.0 : lookup.similarity,
                                       .saved_s = lookup.saved_s,
                                       .age_s = std::chrono::duration_cast<std::chrono::seconds>(lookup.age).count(),
                                       .is_exact = lookup.kind == caching::HitKind::exact,
                                       .is_late = lookup.is_late,
                                       .is_relieved = lookup.is_relieved,
                                       .shadow_wanted = lookup.shadow_wanted};
            }
        }
        auto probe = std::make_shared<caching::Probe>(std::move(lookup.probe));
        setup_.post([found, answer = std::move(answer), probe] { found(answer, std::move(*probe)); });
    });
}

bool SimilarAnswers::store(std::shared_ptr<const caching::Question> question, caching::Probe probe,
                           const caching::SavedText& answer, double saved_s, std::vector<std::string> tags) {
    return push([question = std::move(question), probe = std::move(probe), answer = answer_of(answer), saved_s,
                 tags = std::move(tags)](caching::SemanticCache& cache, const caching::HashedEmbedder&) {
        cache.store(*question, probe, answer, saved_s, tags);
    });
}

bool SimilarAnswers::observe_shadow(std::shared_ptr<const caching::Question> question, caching::Probe probe,
                                    const caching::SavedText& answer) {
    return push([question = std::move(question), probe = std::move(probe), answer = answer_of(answer)](
                    caching::SemanticCache& cache, const caching::HashedEmbedder&) {
        cache.observe_shadow(*question, probe, answer);
    });
}

bool SimilarAnswers::purge(caching::EntryFilter filter, bool dry_run, bool is_wrong,
                           std::function<void(std::size_t)> done) {
    return push([this, filter = std::move(filter), dry_run, is_wrong, done = std::move(done)](
                    caching::SemanticCache& cache, const caching::HashedEmbedder&) {
        std::size_t count = cache.invalidate(filter, true).size();
        if (!dry_run && is_wrong && filter.entry) {
            count = cache.report_wrong(*filter.entry) ? 1 : 0;
        } else if (!dry_run) {
            cache.invalidate(filter, false);
        }
        setup_.post([done, count] { done(count); });
    });
}

bool SimilarAnswers::stand(std::function<void(Standing)> done) {
    return push([this, done = std::move(done)](caching::SemanticCache& cache, const caching::HashedEmbedder&) {
        setup_.post([done, standing = standing_of(cache)] { done(standing); });
    });
}

}  // namespace gateway
