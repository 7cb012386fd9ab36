#include "gateway/cache/live_examples.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "caching/semantic/words.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/routed_context.h"
#include "gateway/keys/api_key.h"
#include "gateway/openai/request_form.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kContextBytesMax = std::size_t{64} << 10;  // of a routed chat: longer ones are not read again

caching::InContextOptions with_key(caching::InContextOptions options, const base::HashKey& key) {
    options.key = key;
    return options;
}

}  // namespace

double answer_likeness(const caching::HashedEmbedder& embedder, const std::string& one, const std::string& other) {
    if (caching::canonical_text(one) == caching::canonical_text(other)) { return 1; }
    const std::vector<float> a = embedder.embed_one(one);
    const std::vector<float> b = embedder.embed_one(other);
    double cosine = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        cosine += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    }
    return std::clamp(cosine, 0.0, 0.95);
}

LiveExamples::LiveExamples(Setup setup)
    : setup_(std::move(setup)),
      cache_(with_key(setup_.settings.learning, setup_.key), setup_.clock, embedder_.dimensions(),
             setup_.settings.small + '\n' + setup_.settings.large),
      quota_({.per_minute = setup_.writes_per_minute}),
      tasks_(setup_.settings.tasks_max) {
    const auto small = setup_.models.find(setup_.settings.small);
    const auto large = setup_.models.find(setup_.settings.large);
    CHECK(small && large);  // check_in_context() has looked
    small_ = *small;
    large_ = *large;
    told({});
    thread_ = std::jthread([this] { work(); });
}

LiveExamples::~LiveExamples() {
    tasks_.close();
}

void LiveExamples::work() {
    const auto tell_store = [this](bool all) {
        if (setup_.store == nullptr) { return; }
        caching::ExampleChanges changes;
        std::optional<std::string> learning;
        {
            const std::scoped_lock lock(mutex_);
            changes = cache_.book().take_changes(all);
            learning = cache_.take_learning(all);
        }
        save(std::move(changes));
        if (learning) { setup_.store->push(caching::SavedExampleLearning{std::move(*learning)}); }
    };
    if (setup_.store != nullptr) { restore(); }
    // Until the queue is closed and empty; never stopped in between.
    while (const auto task = tasks_.pop(std::stop_token())) {
        caching::InContextCache::Counts counts;
        {
            const std::scoped_lock lock(mutex_);
            (*task)(cache_);
            counts = cache_.counts();
        }
        told(counts);
        tell_store(false);
    }
    tell_store(true);
}

void LiveExamples::restore() {
    if (const std::string learning = std::exchange(setup_.learning, {}); !learning.empty()) {
        const std::scoped_lock lock(mutex_);
        if (!cache_.restore_learning(learning)) {
            spdlog::warn(
                "cache: what router and selector of examples had learnt is of other models, or damaged: it begins "
                "anew");
        }
    }
    std::size_t taken = 0;
    for (const caching::SavedExample& one : std::exchange(setup_.kept, {})) {
        const std::vector<float> vector = embedder_.embed_one(one.question);
        const std::scoped_lock lock(mutex_);  // for each: requests are answered meanwhile
        if (cache_.restore(one, vector)) {
            ++taken;
        } else if (!cache_.book().has(one.standing.exact)) {
            unerased_.push_back(one.standing.exact);
        }
    }
    caching::InContextCache::Counts counts;
    {
        const std::scoped_lock lock(mutex_);
        cache_.book().track_changes();
        counts = cache_.counts();
    }
    told(counts);
    if (taken > 0 || !unerased_.empty()) {
        spdlog::info("cache: {} examples from the store, {} of it are not taken", taken, unerased_.size());
    }
    save({});
}

void LiveExamples::save(caching::ExampleChanges changes) {
    for (caching::SavedExample& one : changes.put) {
        setup_.store->push(std::move(one));
    }
    unerased_.insert(unerased_.end(), changes.gone.begin(), changes.gone.end());
    if (!unerased_.empty() && setup_.store->push(caching::ErasedExamples{unerased_})) { unerased_.clear(); }
    if (!changes.standings.empty()) { setup_.store->push(caching::ExampleStandings{std::move(changes.standings)}); }
}

void LiveExamples::told(const caching::InContextCache::Counts& counts) const {
    base::Metrics& metrics = setup_.metrics;
    metrics.gauge("sluice_gateway_in_context_examples", "Answers of the large model kept as examples")
        .Set(static_cast<double>(counts.book.examples));
    metrics.gauge("sluice_gateway_in_context_bytes", "Memory of the examples")
        .Set(static_cast<double>(counts.book.bytes));
    metrics.gauge("sluice_gateway_in_context_account", "Quality that offloading may still cost, in answers")
        .Set(counts.account);
}

ApiResult<void> LiveExamples::rewrite(RequestForm& form, const RewriteContext& context) const {
    if (form.model_name != setup_.settings.name) { return {}; }
    auto routed = std::make_shared<RoutedAsk>();
    form.routed = routed;
    form.model = large_;
    decide(form, context, *routed);
    routed->model = setup_.models[form.model].name;
    setup_.metrics
        .counter("sluice_gateway_in_context_requests_total", "Requests for the routed name, by who answers and why",
                 {{"arm", std::string(caching::arm_name(routed->arm))}, {"reason", std::string(routed->why)}})
        .Increment();
    return {};
}

void LiveExamples::decide(RequestForm& form, const RewriteContext& context, RoutedAsk& routed) const {
    routed.asked = form.template_context + form.own_template;
    if (form.template_context.empty() || !form.own_template.empty()) {
        routed.why = "form";
        return;
    }
    if (!form.tools_field.empty()) {
        routed.why = "tools";
        return;
    }
    if (form.template_context.size() > kContextBytesMax) {
        routed.why = "long";
        return;
    }
    if (form.n != 1 || form.logprobs || form.return_token_ids || form.continued_text) {
        routed.why = "several";
        return;
    }
    boost::system::error_code error;
    json::parse_options depth;
    depth.max_depth = 256;  // it is ours: deeper than what a client may send by the levels around it
    json::value parsed = json::parse(form.template_context, error, {}, depth);
    json::object* fields = error ? nullptr : parsed.if_object();
    const auto single = fields == nullptr ? std::nullopt : single_question(*fields);
    if (!single) {
        routed.why = "history";
        return;
    }
    json::object beside = *fields;
    beside.erase("messages");
    auto question = std::make_shared<caching::InContextQuestion>();
    question->tenant = context.tenant;
    // Of the form of an answer: its grammar is named by the field that it came in and by its own text.
    question->scope = json::serialize(beside) + '\0' + caching::canonical_text(single->system) + '\0' +
                      form.grammar_field +
                      (form.grammar != nullptr ? form.grammar->SerializeAsString() : std::string());
    question->text = single->text;
    question->vector = embedder_.embed_one(single->text);
    caching::Router::Allowed allowed;
    if (context.key != nullptr) {
        allowed.small = context.key->allows_model(setup_.settings.small);
        allowed.large = context.key->allows_model(setup_.settings.large);
    }
    auto decision = std::make_shared<caching::InContextDecision>();
    double load = 0;
    {
        const std::scoped_lock lock(mutex_);
        cache_.see_load(static_cast<double>(large_in_work_.load(std::memory_order_relaxed)) /
                        static_cast<double>(setup_.settings.large_sequences));
        *decision = cache_.decide(*question, allowed);
        load = cache_.meter().mean();
    }
    setup_.metrics.gauge("sluice_gateway_in_context_load", "Mean load of the large model, as routing sees it")
        .Set(load);
    const bool is_small = decision->route.arm == caching::Arm::small;
    routed.arm = decision->route.arm;
    routed.why = decision->route.why;
    if (context.cache == nullptr || !context.cache->no_store) { routed.question = question; }
    // The chosen model may have no workers, and examples may be too much for its context.
    routed.plain = std::make_unique<RequestForm>(form);
    routed.plain->routed.reset();
    routed.plain->model = is_small ? large_ : small_;
    if (setup_.settings.replays_per_hour > 0 && routed.question != nullptr && allowed.small && allowed.large) {
        const std::scoped_lock lock(mutex_);
        remember(decision->partition, *routed.plain, question->text.size());
    }
    const std::string& examples = decision->chosen.rendered;
    const auto give_examples = [&](RequestForm& to) {
        to.model = small_;
        if (examples.empty()) { return; }
        insert_examples(*fields, examples);
        to.template_context = json::serialize(parsed);
        to.user_text_bytes += examples.size();
    };
    if (decision->route.is_compared) {
        routed.compared = std::make_unique<RequestForm>(form);
        routed.compared->routed.reset();
        routed.compared->model = large_;
        if (!is_small) { give_examples(*routed.compared); }
    }
    if (is_small) {
        give_examples(form);
        routed.examples = decision->chosen.examples.size();
        routed.pack = decision->chosen.pack;
    }
    if (!allowed.small || !allowed.large) { routed.plain.reset(); }
    routed.decision = std::move(decision);
}

void LiveExamples::served_by(const std::string& small, const std::string& large) {
    const std::scoped_lock lock(mutex_);  // many text threads ask
    if (small == served_small_ && large == served_large_) { return; }
    const bool is_taken = tasks_.push([small, large](caching::InContextCache& cache) {
        cache.served_by(caching::Arm::small, small);
        cache.served_by(caching::Arm::large, large);
    });
    if (!is_taken) { return; }  // with the next request
    served_small_ = small;
    served_large_ = large;
}

void LiveExamples::keep(std::shared_ptr<const caching::InContextQuestion> question, std::string answer,
                        std::string revision, std::vector<std::string> tags) {
    static constexpr std::string_view kNames[] = {"kept",  "replaced", "worse",   "too_large",
                                                  "empty", "no_room",  "personal"};
    const auto count = [this](std::string_view outcome) {
        setup_.metrics
            .counter("sluice_gateway_in_context_kept_total",
                     "Answers of the large model, by what became of them as examples",
                     {{"outcome", std::string(outcome)}})
            .Increment();
    };
    const bool is_taken =
        tasks_.push([this, count, question = std::move(question), answer = std::move(answer),
                     revision = std::move(revision), tags = std::move(tags)](caching::InContextCache& cache) {
            if (!quota_.take(question->tenant, setup_.clock.now())) {
                count("quota");
                return;
            }
            count(kNames[static_cast<std::size_t>(cache.keep(*question, answer, revision, tags))]);
        });
    if (!is_taken) { count("busy"); }
}

void LiveExamples::compare(std::shared_ptr<const caching::InContextDecision> decision, const std::string& small,
                           const std::string& large) {
    const bool is_taken =
        tasks_.push([this, decision = std::move(decision), small, large](caching::InContextCache& cache) {
            cache.judge(*decision, {.small = answer_likeness(embedder_, small, large), .large = 1.0});
        });
    comparison(is_taken ? "judged" : "busy");
}

void LiveExamples::comparison(std::string_view outcome) const {
    setup_.metrics
        .counter("sluice_gateway_in_context_comparisons_total", "Requests that both models were to answer",
                 {{"outcome", std::string(outcome)}})
        .Increment();
}

bool LiveExamples::list(caching::ExampleFilter filter, std::size_t limit, std::function<void(Listed)> done) {
    return tasks_.push([this, filter = std::move(filter), limit,
                        done = std::move(done)](caching::InContextCache& cache) {
        Listed listed;
        std::vector<std::pair<double, const caching::Example*>> order;
        cache.book().for_each([&](const caching::Example& example) {
            if (filter.matches(example, setup_.clock.now())) {
                order.emplace_back(-cache.book().value_of(example), &example);
            }
        });
        listed.total = order.size();
        std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
            return a.first != b.first ? a.first < b.first : a.second->id < b.second->id;
        });
        for (const auto& [value, example] : order) {
            if (listed.shown.size() >= limit) { break; }
            listed.shown.push_back(
                {.id = static_cast<std::uint64_t>(example->id),
                 .tenant = example->tenant,
                 .revision = example->revision,
                 .tags = example->tags,
                 .age_s =
                     std::chrono::duration_cast<std::chrono::seconds>(setup_.clock.now() - example->created).count(),
                 .uses = example->uses,
                 .value = -value,
                 .gain = example->gain,
                 .replays = example->replays,
                 .bytes = example->bytes,
                 .question = example->question,
                 .answer = example->answer});
        }
        setup_.post([done, listed = std::make_shared<Listed>(std::move(listed))] { done(std::move(*listed)); });
    });
}

bool LiveExamples::purge(caching::ExampleFilter filter, bool dry_run, std::function<void(std::size_t)> done) {
    return tasks_.push(
        [this, filter = std::move(filter), dry_run, done = std::move(done)](caching::InContextCache& cache) {
            const std::size_t count = cache.remove(filter, dry_run);
            if (!dry_run) {  // nothing is left of who is meant; how others ask will be known again
                asked_.clear();
                asked_order_.clear();
            }
            setup_.post([done, count] { done(count); });
        });
}

bool LiveExamples::stand(std::function<void(caching::InContextCache::Counts)> done) {
    return tasks_.push([this, done = std::move(done)](caching::InContextCache& cache) {
        setup_.post([done, counts = cache.counts()] { done(counts); });
    });
}

}  // namespace gateway
