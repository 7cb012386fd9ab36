#include "gateway/cache/response_cache.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace gateway {

ResponseCache::ResponseCache(Setup setup)
    : setup_(std::move(setup)),
      key_(setup_.hash_key),
      metrics_(setup_.metrics),
      text_reader_({.rules = setup_.options.semantic.rules, .similarity = setup_.options.similarity()}),
      book_(setup_.options.book) {
    if (!setup_.options.store_file.empty()) { open_store(); }
    if (setup_.options.similarity()) {
        caching::SemanticCacheOptions options = setup_.options.semantic;
        options.key = key_;
        similar_ = std::make_unique<SimilarAnswers>(SimilarAnswers::Setup{.options = std::move(options),
                                                                          .tasks_max = setup_.options.lookups_max,
                                                                          .encoder = setup_.options.encoder,
                                                                          .clock = setup_.clock,
                                                                          .post = setup_.post,
                                                                          .store = store_.get(),
                                                                          .kept = std::exchange(questions_, {}),
                                                                          .learning = std::exchange(learning_, {})});
        if (!setup_.options.encoder.empty()) { open_encoder(); }
    }
    if (setup_.options.in_context.enabled) {
        examples_ = std::make_unique<LiveExamples>(
            LiveExamples::Setup{.settings = setup_.options.in_context,
                                .models = setup_.models,
                                .key = key_,
                                .metrics = setup_.metrics,
                                .clock = setup_.clock,
                                .post = setup_.post,
                                .writes_per_minute = setup_.options.tenant_writes_per_minute,
                                .store = setup_.options.in_context.stores ? store_.get() : nullptr,
                                .kept = std::exchange(kept_examples_, {}),
                                .learning = std::exchange(example_learning_, {})});
        routed_ = std::make_unique<RoutedSource>(RoutedSource::Setup{.inner = setup_.inner,
                                                                     .examples = *examples_,
                                                                     .models = setup_.models,
                                                                     .clock = setup_.clock,
                                                                     .post = setup_.post});
        if (setup_.options.in_context.replays_per_hour > 0) { open_replay(); }
    }
    if (setup_.options.semantic.relieves) {
        relief_ = std::make_unique<PoolRelief>(setup_.options.semantic.relief_load, setup_.loads, setup_.clock);
    }
    if (setup_.options.common.enabled) {
        caching::CommonAnswers::Options options = setup_.options.common.answers;
        options.key = key_;
        common_ = std::make_unique<caching::CommonAnswers>(options);
    }
    if (setup_.options.shared.is_on()) { open_shared(); }
    source_ = std::make_unique<CachedSource>(
        CachedSource::Setup{.inner = routed_ ? *routed_ : setup_.inner,
                            .book = book_,
                            .similar = similar_.get(),
                            .vectors = vectors_.get(),
                            .shared = shared_.get(),
                            .common = common_.get(),
                            .relief = relief_.get(),
                            .options = setup_.options,
                            .metrics = metrics_,
                            .clock = setup_.clock,
                            .post = setup_.post,
                            .wake = setup_.wake,
                            .keep = [this](const caching::SavedAnswer& answer, const caching::SharedMoment& since) {
                                keep(answer, since);
                            }});
    refresh_counts();
}

ResponseCache::~ResponseCache() = default;

void ResponseCache::open_encoder() {
    for (std::size_t model = 0; model < setup_.models.size(); ++model) {
        if (setup_.models[model].name == setup_.options.encoder) { encoder_ = model; }
    }
    CHECK(encoder_);  // check_question_encoder() has looked
    vectors_ = std::make_unique<ServedVectors>(ServedVectors::Setup{.inner = setup_.inner,
                                                                    .model = *encoder_,
                                                                    .texts_max = setup_.options.lookups_max,
                                                                    .kept_max = setup_.options.encoder_kept,
                                                                    .metrics = metrics_,
                                                                    .clock = setup_.clock,
                                                                    .post = setup_.post});
}

void ResponseCache::open_replay() {
    replay_ = std::make_unique<ExampleReplay>(ExampleReplay::Setup{
        .settings = setup_.options.in_context,
        .small = examples_->small(),
        .large = examples_->large(),
        .inner = setup_.inner,
        .models = setup_.models,
        .loads = setup_.loads,
        .large_in_work = [this] { return routed_->large_in_work(); },
        .choose = [this](auto passed, auto done) { return examples_->next_replay(std::move(passed), std::move(done)); },
        .tell = [this](auto answered, auto done) { return examples_->replayed(std::move(answered), std::move(done)); },
        .metrics = setup_.metrics,
        .clock = setup_.clock,
        .post = setup_.post});
}

std::optional<base::TimePoint> ResponseCache::tick(base::TimePoint now) {
    const auto search = source_->tick(now);
    const auto replay = replay_ ? replay_->tick(now) : std::nullopt;
    return search && replay ? std::min(*search, *replay) : search ? search : replay;
}

void ResponseCache::open_store() {
    auto store = caching::SqliteStore::open(setup_.options.store_file);
    const auto key = store ? (*store)->hash_key() : base::Result<base::HashKey>(base::pass_on(store));
    if (!key) {
        spdlog::warn("{}; answers are kept in memory only", key.error().message);
        metrics_.store(0, 0, false);
        return;
    }
    key_ = *key;  // names stay the same from life to life
    std::vector<caching::SavedAnswer> kept;
    std::vector<base::BlockHash> gone;
    std::size_t bytes = 0;
    const std::int64_t now = setup_.clock.unix_us();
    const auto loaded = (*store)->load([&](caching::SavedAnswer one) {
        bytes += one.bytes();
        if (one.expires_unix_us <= now || kept.size() >= setup_.options.book.entries_max ||
            bytes > setup_.options.book.bytes_max) {
            gone.push_back(one.key);
        } else {
            kept.push_back(std::move(one));
        }
        return true;
    });
    if (!loaded) { spdlog::warn("{}; what could be read is kept", loaded.error().message); }
    std::vector<base::BlockHash> left_out;
    if (setup_.options.similarity()) { left_out = load_questions(**store); }
    std::vector<base::BlockHash> no_examples;
    if (setup_.options.in_context.enabled) { no_examples = load_examples(**store); }
    store_ = std::make_unique<caching::WriteBehind>(
        std::move(*store), caching::WriteBehind::Options{.changes_max = setup_.options.store_queue_max});
    for (auto one = kept.rbegin(); one != kept.rend(); ++one) {  // the latest last: it goes last
        const std::vector<base::BlockHash> evicted = book_.put(std::move(*one));
        gone.insert(gone.end(), evicted.begin(), evicted.end());
    }
    erase_stored(std::move(gone));
    if (!left_out.empty()) { store_->push(caching::ErasedQuestions{std::move(left_out)}); }
    if (!no_examples.empty()) { store_->push(caching::ErasedExamples{std::move(no_examples)}); }
    if (setup_.options.in_context.enabled && !setup_.options.in_context.stores) {
        store_->push(caching::SavedExampleLearning{});
    }
    spdlog::info("cache: {} answers from {}", book_.counts().entries, setup_.options.store_file);
}

void ResponseCache::open_shared() {
    const SharedCacheOptions& options = setup_.options.shared;
    constexpr std::size_t kNamesMost = std::size_t{64} << 10;  // of a document: tenant, tags, what stands around them
    caching::SharedServer::Options server = options.server;
    server.document_bytes_max = setup_.options.answer_bytes_max + kNamesMost;
    shared_ = std::make_unique<caching::SharedAnswers>(
        caching::SharedAnswers::Setup{.server = std::move(server),
                                      .key = key_,
                                      .patience = options.patience,
                                      .lease = options.lease,
                                      .tasks_max = options.queue_max,
                                      .clock = setup_.clock,
                                      .post = setup_.post,
                                      .purged = [this](const caching::SharedPurge& purge) { return hear(purge); },
                                      .forget = [this] { return forget(); }});
}

/// Another gateway's purge, or this one's that comes back.
bool ResponseCache::hear(const caching::SharedPurge& purge) {
    caching::AnswerFilter filter;
    filter.key = purge.name;
    filter.tenant = purge.tenant;
    filter.tag = purge.tag;
    filter.revision = purge.revision;
    filter.created_before_unix_us = purge.created_before_unix_us;
    if (!purge.near_text) {
        source_->purge(filter);
        metrics_.purged(book_.purge(filter, false).size());
        purge_common(filter);
        refresh_counts();
    }
    if (purge.name) { return true; }
    if (!purge.near_text && routed_) { routed_->purge(); }
    std::optional<base::Duration> older_than;
    if (purge.created_before_unix_us) {
        older_than = std::chrono::microseconds(unix_us() - *purge.created_before_unix_us);
    }
    bool is_done = true;
    if (similar_) {
        caching::EntryFilter similar;
        similar.tenant = purge.tenant;
        similar.tag = purge.tag;
        similar.model_revision = purge.revision;
        similar.older_than = older_than;
        similar.near_text = purge.near_text;
        similar.near_similarity = purge.near_similarity;
        is_done = similar_->purge(similar, false, false, [](std::size_t) {});
    }
    if (examples_ && !purge.near_text) {
        caching::ExampleFilter examples;
        examples.tenant = purge.tenant;
        examples.tag = purge.tag;
        examples.revision = purge.revision;
        examples.older_than = older_than;
        is_done = examples_->purge(examples, false, [](std::size_t) {}) && is_done;
    }
    return is_done;
}

/// Nobody knows any more what was purged. What was learnt stays.
bool ResponseCache::forget() {
    source_->purge({});
    if (routed_) { routed_->purge(); }
    metrics_.purged(book_.purge({}, false).size());
    purge_common({});
    refresh_counts();
    caching::EntryFilter all;
    all.older_than = -std::chrono::seconds(1);
    const bool is_done = !similar_ || similar_->purge(all, false, false, [](std::size_t) {});
    return (!examples_ || examples_->purge({}, false, [](std::size_t) {})) && is_done;
}

/// Reads them for the thread of the similar questions. Returns the names of those that are too many.
std::vector<base::BlockHash> ResponseCache::load_questions(caching::SqliteStore& store) {
    std::vector<base::BlockHash> left_out;
    std::size_t bytes = 0;
    const auto loaded = store.load_questions([&](caching::SavedQuestion one) {
        bytes += one.document.size() + one.vector.size();
        if (questions_.size() < setup_.options.semantic.entries_max && bytes <= setup_.options.semantic.bytes_max) {
            questions_.push_back(std::move(one));
        } else {
            left_out.push_back(one.exact);
        }
        return true;
    });
    if (!loaded) { spdlog::warn("{}; what could be read is kept", loaded.error().message); }
    std::reverse(questions_.begin(), questions_.end());
    if (auto learning = store.learning()) { learning_ = std::move(*learning); }
    return left_out;
}

/// Reads them for the thread of the examples. Returns the names of those that are too many, or of all where they are to
/// be in memory only.
std::vector<base::BlockHash> ResponseCache::load_examples(caching::SqliteStore& store) {
    const InContextSettings& settings = setup_.options.in_context;
    std::vector<base::BlockHash> left_out;
    std::size_t bytes = 0;
    const auto loaded = store.load_examples([&](caching::SavedExample one) {
        bytes += one.question.size() + one.answer.size();
        if (settings.stores && kept_examples_.size() < settings.learning.examples_max &&
            bytes <= settings.learning.bytes_max) {
            kept_examples_.push_back(std::move(one));
        } else {
            left_out.push_back(one.standing.exact);
        }
        return true;
    });
    if (!loaded) { spdlog::warn("{}; what could be read is kept", loaded.error().message); }
    std::reverse(kept_examples_.begin(), kept_examples_.end());
    auto learning = store.example_learning();
    if (learning && settings.stores) { example_learning_ = std::move(*learning); }
    return left_out;
}

std::vector<const FormRewriter*> ResponseCache::rewriters() const {
    std::vector<const FormRewriter*> result{&text_reader_};
    if (examples_) { result.push_back(examples_.get()); }
    return result;
}

void ResponseCache::stop() {
    erase_stored({});
    source_->stop();
    if (vectors_) { vectors_->stop(); }
    if (replay_) { replay_->stop(); }
    if (routed_) { routed_->stop(); }
}

void ResponseCache::name(CacheAsk& ask, const PreparedRequest& prepared, std::string_view tenant,
                         const std::vector<ClusterView>& clusters, std::size_t model_index) const {
    const ServedModel& model = setup_.models[model_index];
    const std::uint64_t numerics_id = clusters[model_index].numerics_id;
    std::string both;
    if (RoutedAsk* routed = prepared.form.routed.get(); routed != nullptr && examples_) {
        const std::string small = revision_name(clusters[examples_->small()].numerics_id);
        routed->revision_large = revision_name(clusters[examples_->large()].numerics_id);
        routed->tags = ask.tags;
        const auto known = [&](std::size_t which, const std::string& revision) {
            return clusters[which].numerics_id == 0 ? std::string() : revision;
        };
        examples_->served_by(known(examples_->small(), small), known(examples_->large(), routed->revision_large));
        both =
            setup_.options.in_context.name + "\n" + small + routed->revision_large + std::exchange(routed->asked, {});
    }
    QuestionEncoder encoder;
    if (encoder_) {
        encoder = {.text = setup_.models[*encoder_].text.get(),
                   .numerics_id = clusters[*encoder_].numerics_id,
                   .tokens_max = clusters[*encoder_].context_tokens};
    }
    name_request(ask, prepared, *model.text,
                 {.rules = setup_.options.semantic.rules,
                  .similarity = setup_.options.similarity(),
                  .common = common_ != nullptr && setup_.options.common.takes(tenant),
                  .key = key_,
                  .tenant = tenant,
                  .model = model.name,
                  .numerics_id = numerics_id,
                  .routed = both,
                  .encoder = encoder});
}

void ResponseCache::keep(const caching::SavedAnswer& answer, const caching::SharedMoment& since) {
    if (shared_) { shared_->keep(answer, since); }
    bool is_kept = true;
    for (const base::BlockHash& gone : book_.put(answer)) {
        is_kept = is_kept && gone != answer.key;
        erase_stored({gone});
    }
    if (is_kept && store_) { store_->push(answer); }
    metrics_.stored(is_kept ? "kept" : "no_room");
    refresh_counts();
}

/// Operators are told of answers by whose they are: what anybody may have goes with them, and is not counted.
void ResponseCache::purge_common(const caching::AnswerFilter& filter) {
    if (common_) { common_->purge(filter, false); }
}

/// What the store has no room for now goes with the next that is erased: else it would be back after a restart.
void ResponseCache::erase_stored(std::vector<base::BlockHash> keys) {
    if (!store_) { return; }
    unerased_.insert(unerased_.end(), keys.begin(), keys.end());
    if (!unerased_.empty() && store_->push(caching::ErasedAnswers{unerased_})) { unerased_.clear(); }
}

void ResponseCache::refresh_metrics() {
    refresh_counts();
    if (!similar_ || is_asked_for_categories_) { return; }
    is_asked_for_categories_ = similar_->stand([this](const SimilarAnswers::Standing& standing) {
        is_asked_for_categories_ = false;
        tell_categories(standing);
    });
}

void ResponseCache::tell_categories(const SimilarAnswers::Standing& standing) {
    for (const CategoryStanding& one : standing.categories) {
        metrics_.category(one);
    }
}

void ResponseCache::refresh_counts() {
    const auto counts = book_.counts();
    metrics_.standing(counts.entries, counts.bytes, counts.evicted, source_ ? source_->waiters() : 0);
    if (store_) { metrics_.store(store_->written(), store_->lost(), store_->is_well()); }
    if (shared_) { metrics_.shared(*shared_); }
    if (common_) { metrics_.common(common_->counts().common, common_->counts().waiting); }
}

void ResponseCache::purge(const Purge& purge, std::function<void(base::Result<Purged>)> done) {
    Purged purged;
    std::vector<base::BlockHash> keys;
    if (!purge.dry_run && !purge.filter.id && !purge.similar_filter.near_text) {
        source_->purge(purge.filter);
        if (routed_) { routed_->purge(); }
    }
    if (purge.equal) {
        keys = book_.purge(purge.filter, purge.dry_run);
        purged.equal = keys.size();
        if (!purge.dry_run) {
            erase_stored(keys);
            if (!purge.filter.id) {
                purge_common(purge.filter);
            } else if (common_) {
                for (const base::BlockHash& key : keys) {  // what is wrong is wrong for all who were to have it
                    source_->purge({.key = key});
                    purge_common({.key = key});
                }
            }
        }
    }
    const bool dry_run = purge.dry_run;
    if (!purge.filter.id) { keys.clear(); }
    const auto finish = [this, purge, equal = purged.equal, keys, dry_run, done](std::size_t similar,
                                                                                 std::size_t examples) {
        if (!dry_run) { metrics_.purged(equal + similar + examples); }
        refresh_counts();
        tell_others(purge, keys, Purged{.equal = equal, .similar = similar, .examples = examples}, done);
    };
    const auto then_similar = [this, purge, dry_run, finish, done](std::size_t examples) {
        if (!similar_ || !purge.similar) {
            finish(0, examples);
        } else if (!similar_->purge(purge.similar_filter, dry_run, purge.is_wrong,
                                    [finish, examples](std::size_t similar) { finish(similar, examples); })) {
            done(base::fail(base::ErrorCode::resource_exhausted,
                            "answers to equal requests and examples are purged, answers to similar questions not yet: "
                            "too many lookups wait; ask again"));
        }
    };
    if (!examples_ || !purge.examples) {
        then_similar(0);
    } else if (!examples_->purge(purge.example_filter, dry_run, then_similar)) {
        done(base::fail(base::ErrorCode::resource_exhausted,
                        "answers to equal requests are purged, the others not yet: too many answers wait to become "
                        "examples; ask again"));
    }
}

/// `keys`: of the one entry that was meant by its name here.
void ResponseCache::tell_others(const Purge& purge, const std::vector<base::BlockHash>& keys, Purged purged,
                                const std::function<void(base::Result<Purged>)>& done) {
    const bool is_of_here = purge.similar_filter.entry && keys.empty();  // other gateways have other names
    if (!shared_ || purge.dry_run || is_of_here) {
        done(purged);
        return;
    }
    caching::SharedPurge record;
    if (!keys.empty()) { record.name = keys.front(); }
    record.tenant = purge.filter.tenant;
    record.tag = purge.filter.tag;
    record.revision = purge.filter.revision;
    record.created_before_unix_us = purge.filter.created_before_unix_us;
    record.near_text = purge.similar_filter.near_text;
    record.near_similarity = purge.similar_filter.near_similarity;
    const auto untold = [done](const std::string& why) {
        done(
            base::fail(base::ErrorCode::unavailable,
                       "it is purged in this gateway, and other gateways may not hear of it (" + why + "): ask again"));
    };
    const bool is_asked = shared_->purge(record, [done, purged, untold](const base::Result<void>& told) {
        told ? done(purged) : untold(told.error().message);
    });
    if (!is_asked) { untold("too much waits for the shared server"); }
}

void ResponseCache::stand(std::function<void(base::Result<Standing>)> done) {
    refresh_counts();
    const auto busy = [done] {
        done(base::fail(base::ErrorCode::resource_exhausted, "too many lookups wait; ask again"));
    };
    const auto then_similar = [this, done, busy](std::optional<caching::InContextCache::Counts> examples) {
        if (!similar_) {
            done(Standing{.similar = {}, .examples = examples});
            return;
        }
        const auto tell = [this, done, examples](const SimilarAnswers::Standing& standing) {
            tell_categories(standing);
            done(Standing{.similar = standing, .examples = examples});
        };
        if (!similar_->stand(tell)) { busy(); }
    };
    if (!examples_) {
        then_similar({});
    } else if (!examples_->stand([then_similar](const auto& counts) { then_similar(counts); })) {
        busy();
    }
}

}  // namespace gateway
