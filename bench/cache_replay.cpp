#include "bench/cache_replay.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <fstream>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using caching::HitKind;
using caching::Lookup;
using caching::Question;

/// A line of a trace: what a gateway would see, and what the oracle knows.
struct Request {
    std::int64_t t_ms = 0;
    Question question;
    std::string whole;     // all that the exact ceiling compares
    std::string category;  // the trace's, for the report only
    std::string equiv;
    std::string version;
    std::string scope_tenant;  // empty: the answer is for all tenants
    bool cacheable = true;

    std::string key() const { return equiv + '\n' + version + '\n' + scope_tenant; }
};

std::string text_of(const boost::json::object& fields, std::string_view name) {
    const boost::json::value* value = fields.if_contains(name);
    if (value == nullptr) { return {}; }
    return value->is_string() ? std::string(value->get_string()) : boost::json::serialize(*value);
}

bool truth_of(const boost::json::object& fields, std::string_view name, bool fallback) {
    const boost::json::value* value = fields.if_contains(name);
    return value != nullptr && value->is_bool() ? value->get_bool() : fallback;
}

double number_of(const boost::json::object& fields, std::string_view name) {
    const boost::json::value* value = fields.if_contains(name);
    if (value == nullptr) { return 0; }
    boost::system::error_code error;
    const auto number = value->to_number<double>(error);
    return error ? 0 : number;
}

Result<Request> request_of(const std::string& line, std::size_t number) {
    boost::system::error_code error;
    const boost::json::value parsed = boost::json::parse(line, error);
    const boost::json::object* fields = error ? nullptr : parsed.if_object();
    const boost::json::value* messages = fields == nullptr ? nullptr : fields->if_contains("messages");
    if (messages == nullptr || !messages->is_array()) {
        return base::fail(ErrorCode::invalid_argument,
                          "line " + std::to_string(number) + " is no request: a JSON object with an array 'messages'");
    }
    Request request;
    request.t_ms = static_cast<std::int64_t>(number_of(*fields, "t_ms"));
    request.question.tenant = text_of(*fields, "tenant");
    request.question.model = "played";
    request.question.temperature = number_of(*fields, "temperature");
    if (truth_of(*fields, "tools", false)) { request.question.tools = "[]"; }
    for (const boost::json::value& message : messages->get_array()) {
        const boost::json::object* parts = message.if_object();
        if (parts == nullptr) {
            return base::fail(ErrorCode::invalid_argument,
                              "line " + std::to_string(number) + ": a message is no object");
        }
        request.question.messages.push_back({text_of(*parts, "role"), text_of(*parts, "content")});
    }
    request.whole = request.question.tenant + '\n' + boost::json::serialize(*messages);
    request.category = text_of(*fields, "category");
    request.equiv = text_of(*fields, "equiv");
    request.version = text_of(*fields, "version");
    request.scope_tenant = text_of(*fields, "scope") == "tenant" ? request.question.tenant : std::string();
    request.cacheable = truth_of(*fields, "cacheable", true);
    return request;
}

/// The oracle's verdict of a served answer that was made for the key `served`.
enum class Verdict { right, stale, leak, wrong };
const char* verdict_name(Verdict verdict) {
    constexpr const char* kNames[] = {"true", "stale", "leak", "false"};
    return kNames[static_cast<int>(verdict)];
}

Verdict verdict_of(const Request& request, const std::string& served) {
    const std::size_t first = served.find('\n');
    const std::size_t second = served.find('\n', first + 1);
    if (first == std::string::npos || second == std::string::npos) { return Verdict::wrong; }
    const std::string equiv = served.substr(0, first);
    const std::string version = served.substr(first + 1, second - first - 1);
    const std::string tenant = served.substr(second + 1);
    if (tenant != request.scope_tenant) { return Verdict::leak; }
    if (equiv != request.equiv) { return Verdict::wrong; }
    return version == request.version ? Verdict::right : Verdict::stale;
}

struct Tally {
    std::uint64_t requests = 0;
    std::uint64_t exact = 0;
    std::uint64_t semantic = 0;
    std::uint64_t coalesced = 0;
    std::uint64_t right = 0;
    std::uint64_t right_semantic = 0;
    std::uint64_t wrong_false = 0;
    std::uint64_t wrong_stale = 0;
    std::uint64_t leaks = 0;
    std::uint64_t uncacheable_served = 0;
    std::uint64_t shadows = 0;
    std::uint64_t late = 0;            // served beyond their time,
    std::uint64_t relieved = 0;        // and that or more likely wrong than at rest: because of load
    std::uint64_t exact_ceiling = 0;   // equal requests with the same key that came before
    std::uint64_t tenant_ceiling = 0;  // requests of this tenant with the same key that came before

    std::uint64_t hits() const { return exact + semantic + coalesced; }
};

boost::json::array wilson(std::uint64_t count, std::uint64_t of) {
    if (of == 0) { return {0.0, 1.0}; }
    const double n = static_cast<double>(of);
    const double p = static_cast<double>(count) / n;
    constexpr double kZ = 1.959964;
    const double middle = (p + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
    const double half = kZ / (1 + kZ * kZ / n) * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
    return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double share(std::uint64_t part, std::uint64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double captured(const Tally& tally) {
    if (tally.tenant_ceiling <= tally.exact_ceiling) { return 0; }
    return (static_cast<double>(tally.right) - static_cast<double>(tally.exact_ceiling)) /
           static_cast<double>(tally.tenant_ceiling - tally.exact_ceiling);
}

boost::json::object json_of(const Tally& tally) {
    const std::uint64_t wrong = tally.wrong_false + tally.wrong_stale + tally.leaks;
    return {{"requests", tally.requests},
            {"hits_exact", tally.exact},
            {"hits_semantic", tally.semantic},
            {"coalesced", tally.coalesced},
            {"true_hits", tally.right},
            {"true_semantic", tally.right_semantic},
            {"wrong_false", tally.wrong_false},
            {"wrong_stale", tally.wrong_stale},
            {"leaks", tally.leaks},
            {"wrong_share_of_hits", share(wrong, tally.hits())},
            {"wrong_share_interval", wilson(wrong, tally.hits())},
            {"uncacheable_served", tally.uncacheable_served},
            {"exact_ceiling", share(tally.exact_ceiling, tally.requests)},
            {"tenant_ceiling", share(tally.tenant_ceiling, tally.requests)},
            {"hit_rate", share(tally.hits(), tally.requests)},
            {"gap_captured", captured(tally)},
            {"shadow_generations", tally.shadows},
            {"hits_late", tally.late},
            {"hits_by_load", tally.relieved}};
}

boost::json::object percentiles(std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    const auto at = [&](double part) {
        if (values.empty()) { return 0.0; }
        return values[std::min(values.size() - 1, static_cast<std::size_t>(part * static_cast<double>(values.size())))];
    };
    return {{"p50", at(0.50)}, {"p90", at(0.90)}, {"p99", at(0.99)}, {"max", values.empty() ? 0.0 : values.back()}};
}

/// Keeps the vector of every text and counts its time apart: a lookup's own time is what is left.
class TimedEmbedder final : public caching::Embedder {
public:
    explicit TimedEmbedder(caching::Embedder& inner) : inner_(inner) {}
    std::string name() const override { return inner_.name(); }
    std::size_t dimensions() const override { return inner_.dimensions(); }
    Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
        const auto begin = std::chrono::steady_clock::now();
        std::vector<std::vector<float>> vectors;
        for (const std::string& text : texts) {
            auto known = memo_.find(text);
            if (known == memo_.end()) {
                auto made = inner_.embed(std::span(&text, 1));
                if (!made) { return base::pass_on(made); }
                known = memo_.emplace(text, std::move(made->front())).first;
            }
            vectors.push_back(known->second);
        }
        spent_us += std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
        return vectors;
    }
    double spent_us = 0;

private:
    caching::Embedder& inner_;
    std::unordered_map<std::string, std::vector<float>> memo_;  // bounded by the trace
};

/// An answer that the played model is still at.
struct Running {
    std::int64_t done_ms = 0;
    Request request;
    Lookup lookup;
    bool shadow = false;
};

caching::Answer played_answer(const Request& request) {
    caching::Answer answer;
    answer.content = request.key();
    answer.model = "played";
    answer.prompt_tokens = 50;
    answer.completion_tokens = 100;
    return answer;
}

std::string content_of(const std::string& document) {
    const auto answer = caching::from_document(document);
    return answer ? answer->content : std::string();
}

/// The pool of the played model, whose answers all take equally long, so that they end in the order they were asked
/// for.
class Pool {
public:
    Pool(std::uint64_t sequences, std::int64_t model_ms) : sequences_(sequences), model_ms_(model_ms) {}

    /// When an answer that is asked for now begins.
    std::int64_t begin(std::int64_t now_ms) {
        std::int64_t start = now_ms;
        if (sequences_ > 0 && ends_.size() >= sequences_) { start = std::max(start, ends_.front()); }
        ends_.push_back(start + model_ms_);
        if (sequences_ > 0 && ends_.size() > sequences_) { ends_.pop_front(); }
        return start;
    }

private:
    std::uint64_t sequences_;
    std::int64_t model_ms_;
    std::deque<std::int64_t> ends_;  // of the latest `sequences_`
};

/// One play of a trace.
struct Played {
    boost::json::object report;
    std::vector<std::uint64_t> asked;  // of the pool, by second
    std::vector<double> load;          // its highest in that second: what it has to do by what it can at a time
    std::vector<double> waited_ms;
    Tally all;
};

struct Play {
    const CacheBenchOptions& options;
    const std::vector<std::string>& lines;
    const caching::SemanticCacheOptions& settings;
    bool is_told = false;  // decisions are written
};

Result<Played> replay(const Play& play, caching::Embedder& model) {
    const CacheBenchOptions& options = play.options;
    const std::vector<std::string>* lines = &play.lines;
    const caching::SemanticCacheOptions* settings = &play.settings;
    Played played;
    Pool pool(options.pool_sequences, static_cast<std::int64_t>(options.model_ms));
    caching::LoadRelief relief(settings->relief_load);
    base::FakeClock clock;
    TimedEmbedder embedder(model);
    const caching::HashedEmbedder hashed;
    caching::SemanticCache cache(*settings, clock, embedder, hashed);
    std::ofstream decisions;
    if (play.is_told && !options.decisions_path.empty()) { decisions.open(options.decisions_path); }

    std::map<std::string, Tally> by_category;
    Tally all;
    std::unordered_set<std::string> exact_before;
    std::unordered_set<std::string> key_before;
    std::deque<Running> running;                             // by the time they end: all take equally long
    std::unordered_map<std::string, std::string> in_flight;  // exact name -> key of the answer under way
    std::vector<double> lookup_us;
    std::vector<double> lookup_hit_us;
    std::vector<double> embed_us;
    std::int64_t now_ms = 0;
    const auto name_of = [](const caching::QuestionKeys& keys) {
        return std::to_string(keys.exact.high) + "." + std::to_string(keys.exact.low);
    };
    const auto advance_to = [&](std::int64_t t_ms) {
        if (t_ms > now_ms) {
            clock.advance(std::chrono::milliseconds(t_ms - now_ms));
            now_ms = t_ms;
        }
    };
    const auto finish_until = [&](std::int64_t t_ms) {
        while (!running.empty() && running.front().done_ms <= t_ms) {
            Running done = std::move(running.front());
            running.pop_front();
            advance_to(done.done_ms);
            const caching::Answer answer = played_answer(done.request);
            if (done.shadow) {
                cache.observe_shadow(done.request.question, std::move(done.lookup.probe), answer);
            } else {
                in_flight.erase(name_of(done.lookup.probe.keys));
                cache.store(done.request.question, std::move(done.lookup.probe), answer, options.model_ms / 1000);
            }
        }
    };

    for (std::size_t i = 0; i < lines->size(); ++i) {
        if ((*lines)[i].empty()) { continue; }
        auto parsed = request_of((*lines)[i], i + 1);
        if (!parsed) { return base::pass_on(parsed, options.trace_path); }
        Request& request = *parsed;
        finish_until(request.t_ms);
        advance_to(request.t_ms);
        const auto second = static_cast<std::size_t>(std::max<std::int64_t>(request.t_ms, 0) / 1000);
        if (played.load.size() <= second) {
            played.load.resize(second + 1);
            played.asked.resize(second + 1);
        }
        if (options.pool_sequences > 0) {
            const double load = static_cast<double>(running.size()) / static_cast<double>(options.pool_sequences);
            relief.see(load, clock.now());
            played.load[second] = std::max(played.load[second], load);
        }

        Tally& tally = by_category[request.category];
        const double embedded_before = embedder.spent_us;
        const auto begin = std::chrono::steady_clock::now();
        Lookup lookup = cache.lookup(request.question, relief.at(clock.now()));
        const double took = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
        const double embedding = embedder.spent_us - embedded_before;
        (lookup.kind == HitKind::none ? lookup_us : lookup_hit_us).push_back(took - embedding);
        if (embedding > 0) { embed_us.push_back(embedding); }

        std::string served;
        const char* kind = "miss";
        if (lookup.kind != HitKind::none) {
            served = content_of(lookup.document);
            kind = lookup.kind == HitKind::exact ? "exact" : "semantic";
        } else if (lookup.reason != caching::Uncacheable::none) {
            kind = caching::reason_name(lookup.reason);
        } else if (const auto leader = in_flight.find(name_of(lookup.probe.keys)); leader != in_flight.end()) {
            served = leader->second;
            kind = "coalesced";
        }
        const bool by_similarity = lookup.kind == HitKind::semantic;
        Verdict verdict = Verdict::right;
        if (!served.empty()) { verdict = verdict_of(request, served); }
        for (Tally* counted : {&all, &tally}) {
            ++counted->requests;
            if (request.cacheable) {
                counted->exact_ceiling += exact_before.contains(request.whole + '\n' + request.key()) ? 1 : 0;
                counted->tenant_ceiling += key_before.contains(request.question.tenant + '\n' + request.key()) ? 1 : 0;
            }
            if (served.empty()) { continue; }
            counted->exact += lookup.kind == HitKind::exact ? 1 : 0;
            counted->semantic += by_similarity ? 1 : 0;
            counted->coalesced += lookup.kind == HitKind::none ? 1 : 0;
            counted->right += verdict == Verdict::right ? 1 : 0;
            counted->right_semantic += verdict == Verdict::right && by_similarity ? 1 : 0;
            counted->wrong_false += verdict == Verdict::wrong ? 1 : 0;
            counted->wrong_stale += verdict == Verdict::stale ? 1 : 0;
            counted->leaks += verdict == Verdict::leak ? 1 : 0;
            counted->uncacheable_served += request.cacheable ? 0 : 1;
            counted->shadows += lookup.shadow_wanted ? 1 : 0;
            counted->late += lookup.is_late ? 1 : 0;
            counted->relieved += lookup.is_relieved ? 1 : 0;
        }
        if (request.cacheable) {
            exact_before.insert(request.whole + '\n' + request.key());
            key_before.insert(request.question.tenant + '\n' + request.key());
        }
        if (decisions.is_open()) {
            const caching::Probe& probe = lookup.probe;
            boost::json::value candidate;  // what the nearest questions would have answered
            if (probe.has_candidate) {
                candidate = probe.candidate_meaning == caching::meaning_of(played_answer(request)) ? "right" : "wrong";
            }
            decisions << boost::json::serialize(boost::json::object{
                             {"line", i},
                             {"kind", kind},
                             {"verdict", served.empty() ? "" : verdict_name(verdict)},
                             {"similarity", lookup.similarity},
                             {"probability", probe.probability},
                             {"candidate", candidate},
                             {"category", settings->categories[probe.category].name},
                             {"evidence",
                              {probe.evidence.similarity, probe.evidence.rival, probe.evidence.support,
                               probe.evidence.mean, probe.evidence.unmatched, probe.evidence.conflict,
                               probe.evidence.vote, probe.evidence.words_vote, probe.evidence.lean,
                               probe.evidence.known, probe.evidence.right, probe.evidence.wrong,
                               probe.evidence.joint.mine, probe.evidence.joint.lead, probe.evidence.joint.unexplained,
                               probe.evidence.joint.first}},
                             {"gate", caching::gate_name(lookup.gate)}})
                      << '\n';
        }
        // Comparisons are made in idle capacity; what is uncacheable is the pool's work like any other.
        const bool is_shadow = !served.empty() && lookup.shadow_wanted &&
                               (options.pool_sequences == 0 || running.size() < options.pool_sequences);
        if (served.empty() || is_shadow) {
            const std::int64_t start_ms = pool.begin(request.t_ms);
            ++played.asked[second];
            if (!is_shadow) { played.waited_ms.push_back(static_cast<double>(start_ms - request.t_ms)); }
            if (!is_shadow && lookup.reason == caching::Uncacheable::none) {
                in_flight.emplace(name_of(lookup.probe.keys), request.key());
            }
            const std::int64_t done_ms = start_ms + static_cast<std::int64_t>(options.model_ms);
            running.push_back({done_ms, std::move(request), std::move(lookup), is_shadow});
        }
    }

    boost::json::object report = json_of(all);
    played.all = all;
    report["embedder"] = embedder.name();
    std::vector<double> every_us = lookup_us;
    every_us.insert(every_us.end(), lookup_hit_us.begin(), lookup_hit_us.end());
    boost::json::object times = percentiles(every_us);  // without the embedding
    times["miss"] = percentiles(lookup_us);
    times["hit"] = percentiles(lookup_hit_us);
    times["embedding"] = percentiles(embed_us);
    report["lookup_us"] = std::move(times);
    boost::json::object categories;
    for (const auto& [name, tally] : by_category) {
        categories[name] = json_of(tally);
    }
    report["by_category"] = std::move(categories);
    boost::json::object learnt;
    for (std::size_t i = 0; i < settings->categories.size(); ++i) {
        const caching::ErrorBudget& budget = cache.budget(i);
        const caching::ErrorBound bound = budget.bound();
        const auto& weights = cache.calibration(i).weights();
        learnt[settings->categories[i].name] =
            boost::json::object{{"observations", cache.calibration(i).observations()},
                                {"hits_semantic", budget.hits_semantic()},
                                {"expected_wrong", budget.expected_wrong()},
                                {"shadows", budget.shadows()},
                                {"shadow_errors", budget.shadow_errors()},
                                {"error_bound", {bound.lower, bound.upper}},
                                {"weights", boost::json::array(weights.begin(), weights.end())}};
    }
    report["learnt"] = std::move(learnt);
    const caching::CacheCounts counts = cache.counts();
    report["store"] = boost::json::object{{"entries", counts.entries},
                                          {"bytes", counts.bytes},
                                          {"partitions", counts.partitions},
                                          {"evicted", counts.evicted},
                                          {"expired", counts.expired}};
    played.report = std::move(report);
    return played;
}

/// What bounds that follow the load brought: the seconds are those in which the pool of the play without them had more
/// to do than it could at a time.
boost::json::object compared(const Played& without, Played& with, std::vector<double> waited_without) {
    std::uint64_t seconds = 0;
    std::uint64_t asked_without = 0;
    std::uint64_t asked_with = 0;
    for (std::size_t second = 0; second < without.load.size(); ++second) {
        if (without.load[second] < 1) { continue; }
        ++seconds;
        asked_without += without.asked[second];
        asked_with += with.asked[second];
    }
    const auto side = [](const Tally& all, std::vector<double>& waited, std::uint64_t asked) {
        const std::uint64_t wrong = all.wrong_false + all.wrong_stale + all.leaks;
        double sum = 0;
        for (const double one : waited) {
            sum += one;
        }
        boost::json::object times = percentiles(waited);
        times["mean"] = waited.empty() ? 0.0 : sum / static_cast<double>(waited.size());
        return boost::json::object{
            {"asked_while_saturated", asked}, {"hits", all.hits()}, {"hits_late", all.late},
            {"hits_by_load", all.relieved},   {"wrong", wrong},     {"wrong_share_of_hits", share(wrong, all.hits())},
            {"waited_ms", std::move(times)}};
    };
    const double saved = asked_without == 0 ? 0.0 : 1.0 - share(asked_with, asked_without);
    return {{"seconds_saturated", seconds},
            {"seconds", without.load.size()},
            {"without", side(without.all, waited_without, asked_without)},
            {"with", side(with.all, with.waited_ms, asked_with)},
            {"traffic_less_share", saved}};
}

}  // namespace

Result<boost::json::object> replay_trace(const CacheBenchOptions& options, caching::Embedder& embedder) {
    const auto lines = read_lines(options.trace_path);
    if (!lines) { return base::pass_on(lines); }
    auto settings = read_cache_options(options.config_path);
    if (!settings) { return base::pass_on(settings); }
    settings->seed = options.seed;
    auto first = replay({.options = options, .lines = *lines, .settings = *settings, .is_told = true}, embedder);
    if (!first) { return base::pass_on(first); }
    if (options.pool_sequences == 0) { return std::move(first->report); }
    caching::SemanticCacheOptions other = *settings;
    other.relieves = !settings->relieves;
    auto second = replay({.options = options, .lines = *lines, .settings = other}, embedder);
    if (!second) { return base::pass_on(second); }
    Played& with = settings->relieves ? *first : *second;
    Played& without = settings->relieves ? *second : *first;
    boost::json::object adaptation = compared(without, with, without.waited_ms);
    boost::json::object report = std::move(first->report);
    report["adaptation"] = std::move(adaptation);
    return report;
}

}  // namespace bench
