#include "engine/grammar_pool.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"

namespace engine {

/// Threads that work on streams, first come, first served. They begin with the first stream.
class GrammarPool::Queue {
public:
    Queue(std::uint32_t threads, std::function<void(Stream&)> work)
        : work_(std::move(work)), threads_wanted_(threads) {}
    void push(std::shared_ptr<Stream> stream) {
        {
            const std::lock_guard lock(mutex_);
            waiting_.push_back(std::move(stream));
            while (threads_.size() < threads_wanted_) {
                threads_.emplace_back([this](const std::stop_token& stop) { run(stop); });
            }
        }
        pushed_.notify_one();
    }

private:
    void run(const std::stop_token& stop) {
        while (true) {
            std::shared_ptr<Stream> stream;
            {
                std::unique_lock lock(mutex_);
                if (!pushed_.wait(lock, stop, [this] { return !waiting_.empty(); })) { return; }
                stream = std::move(waiting_.front());
                waiting_.pop_front();
            }
            work_(*stream);
        }
    }

    const std::function<void(Stream&)> work_;
    const std::uint32_t threads_wanted_;
    std::mutex mutex_;
    std::condition_variable_any pushed_;
    std::deque<std::shared_ptr<Stream>> waiting_;  // guarded by mutex_
    std::vector<std::jthread> threads_;            // guarded by mutex_ until the end
};

/// One sequence. Its matcher belongs to the thread that works on it.
class GrammarPool::Stream : public std::enable_shared_from_this<Stream> {
public:
    Stream(GrammarPool& pool, GrammarSpec spec, std::function<void()> ready)
        : pool_(pool), spec_(std::move(spec)), ready_(std::move(ready)) {}

    bool is_ready() const { return is_ready_; }

    void compile() {
        if (!is_abandoned_) {
            auto grammar = pool_.compiled(spec_);
            if (grammar) {
                auto matcher = (*grammar)->matcher();
                if (matcher) {
                    matcher_.emplace(std::move(*matcher));
                } else {
                    error_ = matcher.error();
                }
            } else {
                error_ = grammar.error();
            }
        }
        bool has_jobs = false;
        {
            const std::lock_guard lock(mutex_);
            is_ready_ = true;
            has_jobs = !jobs_.empty();
            if (!is_abandoned_) { ready_(); }  // under the mutex: after abandon() nobody may be there
        }
        if (has_jobs) { pool_.masks_->push(shared_from_this()); }
    }

    /// The caller's thread.
    std::shared_ptr<const LateMask> next(std::span<const base::TokenId> generated, std::optional<base::TokenId> also) {
        CHECK(generated.size() >= told_,
              "tokens were taken back from a grammar: " << generated.size() << " of " << told_);
        auto mask = std::make_shared<LateMask>(pool_.vocabulary_bits_);
        Job job{{generated.begin() + static_cast<std::ptrdiff_t>(told_), generated.end()}, also, mask};
        told_ = generated.size();
        bool is_first = false;
        {
            const std::lock_guard lock(mutex_);
            forced_.clear();
            jobs_.push_back(std::move(job));
            is_first = jobs_.size() == 1 && is_ready_;
        }
        if (is_first) { pool_.masks_->push(shared_from_this()); }
        return mask;
    }

    /// The caller's thread.
    std::vector<base::TokenId> take_forced() {
        const std::lock_guard lock(mutex_);
        return std::exchange(forced_, {});
    }

    void work() {
        while (true) {
            Job* job = nullptr;
            {
                const std::lock_guard lock(mutex_);
                if (jobs_.empty()) { return; }
                job = &jobs_.front();  // a deque's items stay where they are
            }
            serve(*job);
            const std::lock_guard lock(mutex_);
            jobs_.pop_front();
            if (jobs_.empty()) { return; }
        }
    }

    /// Nobody waits for it any more. Whether nothing is left to do.
    bool abandon() {
        const std::lock_guard lock(mutex_);
        is_abandoned_ = true;
        return is_ready_ && jobs_.empty();
    }

private:
    struct Job {
        std::vector<base::TokenId> news;
        std::optional<base::TokenId> also;
        std::shared_ptr<LateMask> mask;
    };

    void serve(Job& job) {
        if (is_abandoned_) { return job.mask->fail({base::ErrorCode::cancelled, "nobody waits for this mask"}); }
        if (error_) { return job.mask->fail(*error_); }
        if (const auto consumed = matcher_->consume(job.news); !consumed) {
            return fail(job, consumed.error(), "the answer so far does not keep to its grammar");
        }
        if (pool_.options_.forced_max > 0 && !job.also) {
            std::vector<base::TokenId> forced = matcher_->forced();
            forced.resize(std::min<std::size_t>(forced.size(), pool_.options_.forced_max));
            const std::lock_guard lock(mutex_);
            forced_ = std::move(forced);
        }
        std::vector<std::uint32_t> words((std::size_t{pool_.vocabulary_bits_} + 31) / 32);
        if (const auto made = matcher_->mask(words); !made) {
            return fail(job, made.error(), "the grammar takes too much here");
        }
        if (job.also) {
            CHECK(*job.also >= 0 && static_cast<std::uint32_t>(*job.also) < pool_.vocabulary_bits_);
            const auto token = static_cast<std::uint32_t>(*job.also);
            words[token / 32] |= 1U << (token % 32);
        }
        job.mask->set(std::move(words));
    }

    void fail(Job& job, const base::Error& error, const char* what) {
        error_ = base::Error{error.code, std::string(what) + ": " + error.message};
        matcher_.reset();
        job.mask->fail(*error_);
    }

    GrammarPool& pool_;
    const GrammarSpec spec_;
    const std::function<void()> ready_;
    std::atomic<bool> is_abandoned_{false};
    std::atomic<bool> is_ready_{false};  // set under mutex_
    std::size_t told_ = 0;               // tokens that next() was called with; the caller's thread

    std::mutex mutex_;
    std::deque<Job> jobs_;               // guarded by mutex_; the first one is worked on
    std::vector<base::TokenId> forced_;  // guarded by mutex_; after the last of the tokens told

    // Of the thread that works on it.
    std::optional<text::GrammarMatcher> matcher_;
    std::optional<base::Error> error_;
};

/// What the worker holds. The matcher, whose end takes time, ends on a thread of the pool.
class GrammarPool::Handle final : public GrammarSequence {
public:
    Handle(GrammarPool& pool, std::shared_ptr<Stream> stream) : pool_(pool), stream_(std::move(stream)) {}
    ~Handle() override {
        // Whoever works on it, or will, has it too; else it goes to a thread that drops it.
        if (stream_->abandon()) { pool_.masks_->push(std::move(stream_)); }
    }
    bool is_ready() const override { return stream_->is_ready(); }
    std::shared_ptr<const LateMask> next(std::span<const base::TokenId> generated,
                                         std::optional<base::TokenId> also) override {
        return stream_->next(generated, also);
    }
    std::vector<base::TokenId> take_forced() override { return stream_->take_forced(); }

private:
    GrammarPool& pool_;
    std::shared_ptr<Stream> stream_;
};

GrammarPool::GrammarPool(LoadVocabulary load, std::uint32_t vocabulary, Options options)
    : load_(std::move(load)),
      vocabulary_bits_(vocabulary),
      options_(options),
      masks_(std::make_unique<Queue>(options.mask_threads, [](Stream& stream) { stream.work(); })),
      compiles_(std::make_unique<Queue>(options.compile_threads, [](Stream& stream) { stream.compile(); })) {
    CHECK(vocabulary > 0 && options.mask_threads > 0 && options.compile_threads > 0);
}

GrammarPool::~GrammarPool() {
    compiles_.reset();
    masks_.reset();
}

std::unique_ptr<GrammarSequence> GrammarPool::begin(const GrammarSpec& spec, std::function<void()> ready) {
    auto stream = std::make_shared<Stream>(*this, spec, std::move(ready));
    compiles_->push(stream);
    return std::make_unique<Handle>(*this, std::move(stream));
}

base::Result<std::shared_ptr<const text::GrammarVocabulary>> GrammarPool::vocabulary() {
    const std::lock_guard lock(load_mutex_);
    if (loaded_ == nullptr) {
        auto loaded = load_();
        if (!loaded) { return loaded; }
        loaded_ = std::move(*loaded);
    }
    return loaded_;
}

base::Result<std::shared_ptr<const text::Grammar>> GrammarPool::compiled(const GrammarSpec& spec) {
    {
        const std::lock_guard lock(mutex_);
        const auto at = std::find_if(kept_.begin(), kept_.end(), [&](const auto& kept) { return kept.first == spec; });
        if (at != kept_.end()) {
            kept_.splice(kept_.begin(), kept_, at);
            return kept_.front().second;
        }
    }
    const auto words = vocabulary();
    if (!words) { return base::pass_on(words, "grammars need the tokenizer of the model"); }
    auto grammar = (*words)->compile({static_cast<text::GrammarKind>(spec.kind), spec.text});
    if (!grammar) { return base::pass_on(grammar, "the grammar"); }
    const std::lock_guard lock(mutex_);
    ++compilations_;
    if (spec.text.size() > options_.compiled_source_bytes) { return *grammar; }
    kept_.emplace_front(spec, *grammar);
    kept_bytes_ += spec.text.size();
    while (kept_.size() > options_.compiled_max || kept_bytes_ > options_.compiled_source_bytes) {
        kept_bytes_ -= kept_.back().first.text.size();
        kept_.pop_back();
    }
    return *grammar;
}

std::uint64_t GrammarPool::compilations() const {
    const std::lock_guard lock(mutex_);
    return compilations_;
}

}  // namespace engine
