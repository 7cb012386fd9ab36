#include "bench/in_context.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <unordered_map>

#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/embedder.h"

namespace bench {
namespace {

namespace json = boost::json;
using caching::Arm;

constexpr std::size_t kDimensions = 64;
constexpr std::uint64_t kCorners = 6;          // of a topic; examples of the same one help most
constexpr std::uint64_t kLargeSequences = 16;  // that the large model answers at a time
constexpr double kLargeSeconds = 2.0;          // mean of an answer
constexpr double kThumbs = 0.01;               // of answers a user judges: IC-Cache has feedback on 1 % of traffic
constexpr double kSwapLoad = 0.9;              // at which a small model is replaced
constexpr std::size_t kWindow = 250;           // requests, of adaptation
constexpr std::uint64_t kReplayEvery = 500;    // requests off-peak between two rounds of replay
constexpr std::size_t kReplays = 8;

/// 0 to 1, from its arguments alone.
double known(std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
    std::uint64_t x = seed * 0x9e3779b97f4a7c15ULL + a * 0xbf58476d1ce4e5b9ULL + b * 0x94d049bb133111ebULL;
    for (int round = 0; round < 3; ++round) {
        x ^= x >> 30;
        x *= 0xbf58476d1ce4e5b9ULL;
        x ^= x >> 27;
    }
    return static_cast<double>(x >> 11) / 9007199254740992.0;
}

struct Question {
    std::uint64_t topic = 0;
    std::uint64_t corner = 0;
    std::uint64_t number = 0;
    std::string text() const {
        const std::string in = std::to_string(topic);
        return "topic" + in + " corner" + in + "x" + std::to_string(corner) + " number" + std::to_string(number);
    }
};

/// What both models are worth, and what examples do to the small one: known here and told to nobody.
class World {
public:
    explicit World(const InContextBenchOptions& options) : options_(options), random_(options.seed) {
        std::normal_distribution<float> normal;
        for (std::uint64_t topic = 0; topic < options.topics; ++topic) {
            std::vector<float> centre(kDimensions);
            for (float& value : centre) {
                value = normal(random_);
            }
            centres_.push_back(std::move(centre));
        }
    }

    Question draw() {
        // Zipf-like: a few topics make most of the traffic.
        const double at = std::pow(known(options_.seed, 1, next_), 2.0);
        Question question;
        question.topic = static_cast<std::uint64_t>(at * static_cast<double>(options_.topics));
        question.corner = static_cast<std::uint64_t>(known(options_.seed, 2, next_) * kCorners);
        question.number = next_++;
        return question;
    }
    std::vector<float> vector(const Question& question) {
        std::vector<float> result = centres_[question.topic];
        std::mt19937_64 of_corner(options_.seed * 1000003 + question.topic * 31 + question.corner);
        std::mt19937_64 of_number(options_.seed * 7919 + question.number);
        std::normal_distribution<float> normal;
        for (float& value : result) {
            value += 0.5F * normal(of_corner);
        }
        for (float& value : result) {
            value += 0.35F * normal(of_number);
        }
        caching::normalise(result);
        return result;
    }

    double large(const Question& question) const { return 0.75 + 0.2 * known(options_.seed, 3, question.topic); }
    double small_alone(const Question& question) const {
        const double kind = known(options_.seed, 4, question.topic);
        const double part = known(options_.seed, 5, question.topic);
        double gap = 0.1 + 0.2 * part;
        if (kind < options_.easy) { gap = 0.03 * part - 0.01; }
        if (kind > 1 - options_.hard) { gap = 0.35 + 0.25 * part; }
        return std::clamp(large(question) - gap - small_is_worse_, 0.0, large(question) + 0.01);
    }
    /// With examples: (question, version of the answer).
    using Shown = std::vector<std::pair<Question, std::uint64_t>>;
    double small_with(const Question& question, const Shown& examples) const {
        const bool is_hard = known(options_.seed, 4, question.topic) > 1 - options_.hard;
        const double alone = small_alone(question);
        double unhelped = 1;
        double harm = 0;
        for (const auto& [example, version] : examples) {
            const double worth = worth_of(example, version);
            const double match = example.topic != question.topic ? 0 : example.corner == question.corner ? 1 : 0.4;
            if (match == 0) {
                harm += 0.03;
            } else if (worth < 0) {
                harm += 0.12 * match * -worth;
            } else {
                unhelped *= 1 - (is_hard ? 0.25 : 0.75) * worth * match;
            }
        }
        const double room = std::max(large(question) + 0.01 - alone, 0.0);
        return std::clamp(alone + room * (1 - unhelped) - harm, 0.0, 1.0);
    }
    /// -1 to 1: a quarter of the examples, alike as they may be, do harm.
    double worth_of(const Question& example, std::uint64_t version) const {
        return known(options_.seed, 100 + version, example.number) * 1.33 - 0.33;
    }
    void make_small_worse(double by) { small_is_worse_ = by; }
    double judged(double quality) {
        return std::clamp(quality + std::normal_distribution<double>(0, options_.noise)(random_), 0.0, 1.0);
    }
    double uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
    double exponential(double mean) { return -mean * std::log(1 - uniform()); }

private:
    const InContextBenchOptions& options_;
    std::mt19937_64 random_;
    std::vector<std::vector<float>> centres_;
    std::uint64_t next_ = 0;
    double small_is_worse_ = 0;
};

/// The large model: so many answers at a time, the others wait.
class LargePool {
public:
    void begin(double now, double seconds) {
        double start = now;
        if (ends_.size() >= kLargeSequences) {  // the one that ends so that this one's turn has come
            start = std::max(now, *std::prev(ends_.end(), static_cast<std::ptrdiff_t>(kLargeSequences)));
        }
        ends_.insert(start + seconds);
    }
    double load(double now) {
        ends_.erase(ends_.begin(), ends_.upper_bound(now));
        return static_cast<double>(ends_.size()) / static_cast<double>(kLargeSequences);
    }

private:
    std::multiset<double> ends_;
};

class Play {
public:
    explicit Play(const InContextBenchOptions& options)
        : options_(options), world_(options), cache_(settings(options), clock_, kDimensions) {}

    InContextReport run() {
        InContextReport report;
        const std::uint64_t early = std::min<std::uint64_t>(1000, options_.warm_up);
        report.first = stretch(0.7, early);
        const std::uint64_t late = std::min<std::uint64_t>(2000, options_.warm_up - early);
        stretch(0.7, options_.warm_up - early - late);
        report.warm = stretch(0.7, late);
        for (const double load : options_.loads) {
            report.steps.push_back(stretch(load, options_.step));
        }
        stretch(kSwapLoad, options_.step);  // what was offloaded under pressure has been paid for again
        report.better = swap(-1);
        report.worse = swap(0.35);
        report.examples = cache_.counts().book.examples;
        report.example_bytes = cache_.counts().book.bytes;
        report.comparisons = cache_.counts().comparisons;
        report.decide_us = decisions_ == 0 ? 0 : decide_us_ / static_cast<double>(decisions_);
        return report;
    }

private:
    static caching::InContextOptions settings(const InContextBenchOptions& options) {
        caching::InContextOptions result;
        result.seed = options.seed;
        result.similarity_min = 0.3;
        result.loss_target = options.loss_target;
        return result;
    }

    InContextSwap swap(double small_is_worse) {
        InContextSwap result;
        const auto mean = [&](std::size_t from, std::size_t to) {
            double sum = 0;
            for (std::size_t at = from; at < to; ++at) {
                sum += regrets_[at];
            }
            return to > from ? sum / static_cast<double>(to - from) : 0;
        };
        const std::size_t begin = regrets_.size();
        const std::uint64_t noticed = cache_.counts().model_changes;
        result.regret_before = mean(begin - std::min<std::size_t>(begin, 1000), begin);
        world_.make_small_worse(small_is_worse);
        stretch(kSwapLoad, options_.swap);
        const std::size_t end = regrets_.size();
        result.regret_after = mean(begin, std::min(begin + kWindow, end));
        result.regret_end = mean(end - std::min<std::size_t>(end - begin, 1000), end);
        for (std::size_t at = begin; at + kWindow <= end; ++at) {
            if (mean(at, at + kWindow) <= result.regret_before * 1.5 + 0.01) {
                result.adapted_in = static_cast<std::int64_t>(at - begin);
                break;
            }
        }
        result.changes_noticed = cache_.counts().model_changes - noticed;
        return result;
    }

    World::Shown shown(const std::vector<caching::ExampleId>& examples) const {
        World::Shown result;
        for (const caching::ExampleId id : examples) {
            result.push_back(known_.at(id));
        }
        return result;
    }

    void keep(const Question& question, const caching::InContextQuestion& asked) {
        if (cache_.keep(asked, "answer " + std::to_string(question.number), "r1") !=
            caching::InContextCache::Kept::kept) {
            return;
        }
        // Ids are given in order, and nobody else adds.
        const caching::ExampleId id{++kept_};
        known_[id] = {question, 0};
        order_.push_back(id);
    }

    /// When there is little to do: the examples that were used and did worst are answered again.
    void replay() {
        for (const caching::ExampleId id : cache_.book().replay_candidates(kReplays)) {
            auto& [question, version] = known_.at(id);
            const auto judged = [this, &question = question](std::uint64_t of) {
                return world_.judged(0.5 + 0.4 * world_.worth_of(question, of));
            };
            cache_.book().answer_judged(id, judged(version));
            if (cache_.book().replayed(id, "again " + std::to_string(version + 1), judged(version + 1))) { ++version; }
        }
    }

    std::vector<caching::ExampleId> any_examples(std::size_t count) {
        std::vector<caching::ExampleId> result;
        for (std::size_t tries = 0; tries < 4 * count && result.size() < count && !order_.empty(); ++tries) {
            const caching::ExampleId id =
                order_[static_cast<std::size_t>(world_.uniform() * static_cast<double>(order_.size()))];
            if (cache_.book().find(id) != nullptr) { result.push_back(id); }
        }
        return result;
    }

    InContextStretch stretch(double load, std::uint64_t requests) {
        InContextStretch sum;
        sum.load = load;
        sum.requests = requests;
        const double gap_s = kLargeSeconds / (load * static_cast<double>(kLargeSequences));
        double shown_bytes = 0;
        double cached_bytes = 0;
        for (std::uint64_t at = 0; at < requests; ++at) {
            const double wait = world_.exponential(gap_s);
            now_s_ += wait;
            clock_.advance(std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(wait)));
            const double busy = large_.load(now_s_);
            cache_.see_load(busy);
            sum.large_busy += busy;
            if (busy < 0.6 && ++idle_ % kReplayEvery == 0) { replay(); }
            const Question question = world_.draw();
            const caching::InContextQuestion asked{
                .tenant = "t", .scope = "", .text = question.text(), .vector = world_.vector(question)};
            const auto begin = std::chrono::steady_clock::now();
            const caching::InContextDecision decision = cache_.decide(asked);
            decide_us_ += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
            ++decisions_;
            one(question, asked, decision, sum);
            if (decision.route.arm == Arm::small) {
                shown_bytes += static_cast<double>(decision.chosen.rendered.size());
                cached_bytes += prefix_bytes(decision);
            }
        }
        const auto count = static_cast<double>(std::max<std::uint64_t>(requests, 1));
        for (double* value : {&sum.offloaded, &sum.quality, &sum.quality_large, &sum.quality_small,
                              &sum.quality_small_alone, &sum.quality_small_nearest, &sum.quality_small_random,
                              &sum.regret, &sum.regret_random, &sum.large_busy, &sum.oracle_offloaded, &sum.compared}) {
            *value /= count;
        }
        std::sort(losses_.begin(), losses_.end());
        double allowed = 0.01 * sum.quality_large * count;
        for (const double loss : losses_) {
            allowed -= loss;
            if (allowed < 0) { break; }
            sum.offloadable += 1 / count;
        }
        losses_.clear();
        sum.prefix_share = shown_bytes > 0 ? cached_bytes / shown_bytes : 0;
        return sum;
    }

    void one(const Question& question, const caching::InContextQuestion& asked,
             const caching::InContextDecision& decision, InContextStretch& sum) {
        const double large = world_.large(question);
        const double small = world_.small_with(question, shown(decision.chosen.examples));
        sum.quality_large += large;
        sum.quality_small += small;
        sum.quality_small_alone += world_.small_alone(question);
        const std::size_t like = std::max<std::size_t>(decision.chosen.examples.size(), 3);
        sum.quality_small_random += world_.small_with(question, shown(any_examples(like)));
        std::vector<caching::ExampleId> nearest;
        if (const auto* index = cache_.book().index(decision.partition)) {
            for (const auto& near : index->nearest(asked.vector, like, 3)) {
                nearest.push_back(near.example);
            }
        }
        sum.quality_small_nearest += world_.small_with(question, shown(nearest));
        const double price = decision.route.price;
        const double worth_small = small - price * cache_.options().small_cost;
        const double worth_large = large - price;
        const bool is_small = decision.route.arm == Arm::small;
        sum.oracle_offloaded += worth_small >= worth_large ? 1 : 0;
        losses_.push_back(large - small);
        const double regret = std::max(worth_small, worth_large) - (is_small ? worth_small : worth_large);
        regrets_.push_back(regret);
        sum.regret += regret;
        sum.regret_random += std::abs(worth_small - worth_large) / 2;
        sum.offloaded += is_small ? 1 : 0;
        sum.quality += is_small ? small : large;
        if (!is_small) { large_.begin(now_s_, world_.exponential(kLargeSeconds)); }
        caching::InContextFeedback feedback;
        if (decision.route.is_compared) {
            sum.compared += 1;
            feedback = {.small = world_.judged(small), .large = world_.judged(large)};
            if (is_small) { large_.begin(now_s_, world_.exponential(kLargeSeconds)); }
        } else if (world_.uniform() < kThumbs) {
            (is_small ? feedback.small : feedback.large) = world_.judged(is_small ? small : large);
        }
        if (feedback.small || feedback.large) { cache_.judge(decision, feedback); }
        if (!is_small || decision.route.is_compared) { keep(question, asked); }
    }

    /// Of the block of examples: what stood at the same place of an earlier prompt.
    double prefix_bytes(const caching::InContextDecision& decision) {
        if (decision.chosen.pack == 0) { return 0; }
        std::size_t end = 0;
        for (std::size_t at = 0; at < decision.chosen.pack_examples; ++at) {
            end = decision.chosen.rendered.find("</example>", end) + 1;
        }
        return packs_.insert(decision.chosen.pack).second ? 0 : static_cast<double>(end);
    }

    const InContextBenchOptions& options_;
    base::FakeClock clock_;
    World world_;
    caching::InContextCache cache_;
    LargePool large_;
    double now_s_ = 0;
    std::uint64_t kept_ = 0;
    std::uint64_t idle_ = 0;
    std::unordered_map<caching::ExampleId, std::pair<Question, std::uint64_t>> known_;
    std::vector<caching::ExampleId> order_;
    std::vector<double> regrets_;
    std::vector<double> losses_;  // of the stretch, had the small model answered
    std::set<std::uint64_t> packs_;
    double decide_us_ = 0;
    std::uint64_t decisions_ = 0;
};

json::object to_json(const InContextStretch& one) {
    return {{"load", one.load},
            {"requests", one.requests},
            {"offloaded", one.offloaded},
            {"quality", one.quality},
            {"quality_large", one.quality_large},
            {"loss", one.loss()},
            {"quality_small", one.quality_small},
            {"quality_small_alone", one.quality_small_alone},
            {"quality_small_nearest", one.quality_small_nearest},
            {"quality_small_random", one.quality_small_random},
            {"regret", one.regret},
            {"regret_random", one.regret_random},
            {"large_busy", one.large_busy},
            {"oracle_offloaded", one.oracle_offloaded},
            {"offloadable", one.offloadable},
            {"compared", one.compared},
            {"prefix_share", one.prefix_share}};
}

json::object to_json(const InContextSwap& one) {
    return {{"regret_before", one.regret_before},
            {"regret_after", one.regret_after},
            {"regret_end", one.regret_end},
            {"adapted_in", one.adapted_in},
            {"changes_noticed", one.changes_noticed}};
}

}  // namespace

InContextReport simulate_in_context(const InContextBenchOptions& options) {
    return Play(options).run();
}

json::object to_json(const InContextReport& report, const InContextBenchOptions& options) {
    json::array steps;
    for (const InContextStretch& step : report.steps) {
        steps.push_back(to_json(step));
    }
    return {{"seed", options.seed},
            {"topics", options.topics},
            {"easy", options.easy},
            {"hard", options.hard},
            {"noise", options.noise},
            {"loss_target", options.loss_target},
            {"first", to_json(report.first)},
            {"warm", to_json(report.warm)},
            {"steps", std::move(steps)},
            {"worse", to_json(report.worse)},
            {"better", to_json(report.better)},
            {"examples", report.examples},
            {"example_bytes", report.example_bytes},
            {"comparisons", report.comparisons},
            {"decide_us", report.decide_us}};
}

int bench_in_context_main(const InContextBenchOptions& options) {
    const std::string text = json::serialize(to_json(simulate_in_context(options), options));
    if (options.out_path == "-") {
        std::printf("%s\n", text.c_str());
        return 0;
    }
    std::ofstream file{options.out_path};
    file << text << '\n';
    file.close();
    if (!file) { std::fprintf(stderr, "bench in-context: cannot write %s\n", options.out_path.c_str()); }
    return file ? 0 : 1;
}

void add_bench_in_context(CLI::App& app, InContextBenchOptions& options) {
    const auto most = CLI::Range(std::uint64_t{1}, std::uint64_t{10'000'000});
    app.add_option("--seed", options.seed, "of questions, qualities, examples and choices")->capture_default_str();
    app.add_option("--warm-up", options.warm_up, "requests at load 0.7, from an empty store")
        ->check(most)
        ->capture_default_str();
    app.add_option("--step", options.step, "requests at each load")->check(most)->capture_default_str();
    app.add_option("--swap", options.swap, "requests after each swap of the small model")
        ->check(most)
        ->capture_default_str();
    app.add_option("--loads", options.loads, "of the large model's capacity, one after the other")
        ->check(CLI::Range(0.01, 100.0))
        ->capture_default_str();
    app.add_option("--topics", options.topics, "of the questions")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{100'000}))
        ->capture_default_str();
    app.add_option("--easy", options.easy, "share of topics that the small model needs no help with")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_option("--hard", options.hard, "share of topics that examples do not help enough with")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_option("--loss-target", options.loss_target, "of quality, that offloading may cost on average")
        ->check(CLI::Range(0.0, 0.5))
        ->capture_default_str();
    app.add_option("--noise", options.noise, "of a judged answer")->check(CLI::Range(0.0, 1.0))->capture_default_str();
    app.add_option("--out", options.out_path, "JSON; -: standard output")->capture_default_str();
}

}  // namespace bench
