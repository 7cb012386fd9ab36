#include "cli/fleet_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "proto/roles.h"

namespace cli {

namespace json = boost::json;

namespace {

using proto::ModelState;
using proto::WorkerState;

/// The lists of top_view().
constexpr std::array<std::string_view, 7> kLists = {"processes", "models", "slo", "pools", "queues", "kv", "transfers"};

std::string hex(std::uint64_t number) {
    return fmt::format("{:016x}", number);
}

std::string role_of(const WorkerState& worker) {
    const auto role = proto::role_of(worker.role());
    return role ? std::string(proto::role_name(*role)) : "unknown";
}

// --- what became different ------------------------------------------------------------------------------------------

struct Known {
    const ModelState* model;
    const WorkerState* worker;
};
using Workers = std::map<std::uint64_t, Known>;  // by id

Workers workers_of(const FleetMoment& moment) {
    Workers workers;
    if (!moment.roster) { return workers; }
    for (const ModelState& model : moment.roster->models()) {
        for (const WorkerState& worker : model.workers()) {
            workers[worker.endpoint().worker_id()] = {&model, &worker};
        }
    }
    return workers;
}

class Differences {
public:
    Differences(double unix_s, std::size_t max) : unix_s_(unix_s), max_(max) {}
    void add(std::string what, std::string name, std::string text) {
        if (++count_ <= max_) { changes_.push_back({unix_s_, std::move(what), std::move(name), std::move(text)}); }
    }
    std::vector<FleetChange> take() {
        if (count_ > max_ && !changes_.empty()) {
            changes_.back() = {unix_s_, "others", "", fmt::format("{} more changes at once", count_ - max_ + 1)};
        }
        return std::move(changes_);
    }

private:
    const double unix_s_;
    const std::size_t max_;
    std::size_t count_ = 0;
    std::vector<FleetChange> changes_;
};

void compare_workers(const FleetMoment& before, const FleetMoment& now, Differences& differences) {
    const Workers earlier = workers_of(before);
    const Workers later = workers_of(now);
    for (const auto& [id, known] : later) {
        const auto was = earlier.find(id);
        const std::string_view state = known.worker->state();
        if (was == earlier.end()) {
            differences.add("worker", hex(id),
                            fmt::format("registered as {} of {} at {}, {}", role_of(*known.worker),
                                        known.model->model(), known.worker->endpoint().control_address(), state));
        } else if (was->second.worker->endpoint().incarnation() != known.worker->endpoint().incarnation()) {
            differences.add("worker", hex(id), fmt::format("is another process now, {}", state));
        } else if (was->second.worker->state() != state) {
            differences.add("worker", hex(id), fmt::format("was {}, is {}", was->second.worker->state(), state));
        }
    }
    for (const auto& [id, known] : earlier) {
        if (!later.contains(id)) {
            differences.add("worker", hex(id),
                            fmt::format("is gone ({} of {}, was {})", role_of(*known.worker), known.model->model(),
                                        known.worker->state()));
        }
    }
}

void compare_models(const FleetMoment& before, const FleetMoment& now, Differences& differences) {
    std::map<std::string, bool> was;
    for (const ModelState& model : before.roster->models()) {
        was[model.model()] = model.ready();
    }
    for (const ModelState& model : now.roster->models()) {
        const auto at = was.find(model.model());
        if (at != was.end() && at->second != model.ready()) {
            differences.add("model", model.model(), model.ready() ? "is ready" : "is not ready");
        }
        if (at != was.end()) { was.erase(at); }
    }
    for (const auto& [name, ready] : was) {
        differences.add("model", name, "has no workers");
    }
}

void compare_scheduler(const FleetMoment& before, const FleetMoment& now, Differences& differences) {
    const bool was_reached = before.scheduler_problem.empty();
    const bool is_reached = now.scheduler_problem.empty();
    if (was_reached && !is_reached) {
        differences.add("scheduler", "", "is not reached: " + now.scheduler_problem);
    } else if (!was_reached && is_reached) {
        differences.add("scheduler", "", "is reached");
    }
    if (before.roster && now.roster && before.roster->scheduler_epoch() != now.roster->scheduler_epoch()) {
        differences.add("scheduler", "", fmt::format("another one leads, of epoch {}", now.roster->scheduler_epoch()));
    }
}

/// A member of a process's row as text; empty where it is not there.
std::string member(const json::object& process, std::string_view name) {
    const json::value* value = process.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

const json::array& list_of(const json::object& view, std::string_view name) {
    static const json::array kNone;
    const json::value* value = view.if_contains(name);
    return value != nullptr && value->is_array() ? value->get_array() : kNone;
}

void compare_processes(const FleetMoment& before, const FleetMoment& now, Differences& differences) {
    std::map<std::string, const json::object*> was;
    for (const json::value& process : list_of(before.view, "processes")) {
        was[member(process.get_object(), "url")] = &process.get_object();
    }
    for (const json::value& value : list_of(now.view, "processes")) {
        const json::object& process = value.get_object();
        const auto at = was.find(member(process, "url"));
        if (at == was.end()) { continue; }
        const std::string problem = member(process, "problem");
        const std::string problem_before = member(*at->second, "problem");
        if (problem_before.empty() && !problem.empty()) {
            differences.add("process", at->first, "is not reached: " + problem);
        } else if (!problem_before.empty() && problem.empty()) {
            differences.add("process", at->first, "is reached");
        } else if (problem.empty() && member(process, "version") != member(*at->second, "version")) {
            differences.add("process", at->first, "is of version " + member(process, "version"));
        }
    }
}

// --- what is told ---------------------------------------------------------------------------------------------------

struct Row {
    const ModelState* model;
    const WorkerState* worker;
    std::uint32_t attention;  // 0: most
};

std::uint32_t attention_of(std::string_view state) {
    return state == "suspect" || state == "ejected" ? 0 : state == "draining" ? 1 : state == "ready" ? 3 : 2;
}

bool comes_before(const Row& a, const Row& b) {
    const auto key = [](const Row& row) { return std::pair(row.attention, row.worker->endpoint().worker_id()); };
    return key(a) < key(b);
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return out;
}

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> words;
    const std::string all = lower(text);
    for (std::size_t at = 0; at < all.size();) {
        const std::size_t end = std::min(all.find(' ', at), all.size());
        if (end > at) { words.push_back(all.substr(at, end - at)); }
        at = end + 1;
    }
    return words;
}

bool is_about(const Row& row, const std::vector<std::string>& words) {
    if (words.empty()) { return true; }
    const std::string text =
        lower(fmt::format("{} {} {} {} {}", hex(row.worker->endpoint().worker_id()), row.model->model(),
                          role_of(*row.worker), row.worker->state(), row.worker->endpoint().control_address()));
    return std::all_of(words.begin(), words.end(),
                       [&](const std::string& word) { return text.find(word) != std::string::npos; });
}

/// How many workers of a model can do each phase now.
struct ReadyCounts {
    std::size_t prefill = 0;
    std::size_t decode = 0;
    std::size_t encode = 0;

    explicit ReadyCounts(const ModelState& model) {
        for (const WorkerState& worker : model.workers()) {
            const auto role = proto::role_of(worker.role());
            if (worker.state() != "ready" || !role) { continue; }
            prefill += proto::can_prefill(*role) ? 1 : 0;
            decode += proto::can_decode(*role) ? 1 : 0;
            encode += *role == proto::Role::encode ? 1 : 0;
        }
    }
    /// Whether without this one, which is ready, a phase could not be placed.
    bool needs(proto::Role role) const {
        return (proto::can_prefill(role) && prefill == 1) || (proto::can_decode(role) && decode == 1) ||
               (role == proto::Role::encode && encode == 1);
    }
};

json::object worker_json(const Row& row, const std::map<const ModelState*, ReadyCounts>& ready) {
    const WorkerState& worker = *row.worker;
    const proto::WorkerLoad& load = worker.load();
    const auto role = proto::role_of(worker.role());
    const double in_use = static_cast<double>(load.blocks_used()) + load.blocks_pinned() + load.blocks_stranded();
    const double blocks = in_use + load.blocks_cached() + load.blocks_free();
    json::object kv;
    kv["used"] = load.blocks_used();
    kv["cached"] = load.blocks_cached();
    kv["free"] = load.blocks_free();
    kv["pinned"] = load.blocks_pinned();
    kv["stranded"] = load.blocks_stranded();
    kv["blocks"] = blocks;
    kv["in_use_ratio"] = blocks > 0 ? std::round(in_use / blocks * 1e4) / 1e4 : 0;
    json::object out;
    out["id"] = hex(worker.endpoint().worker_id());
    out["incarnation"] = hex(worker.endpoint().incarnation());
    out["address"] = worker.endpoint().control_address();
    out["model"] = row.model->model();
    out["role"] = role_of(worker);
    out["state"] = worker.state();
    out["waiting"] = load.requests_waiting();
    out["running"] = load.requests_running();
    out["queued_tokens"] = load.prefill_tokens_queued();
    out["kv"] = std::move(kv);
    out["heartbeat_age_s"] = std::round(static_cast<double>(worker.heartbeat_age_us()) / 1e3) / 1e3;
    out["is_last"] = worker.state() == "ready" && role && ready.at(row.model).needs(*role);
    return out;
}

json::object workers_json(const proto::DescribeReply& roster, const FleetQuery& query) {
    const std::vector<std::string> words = words_of(query.words);
    std::map<const ModelState*, ReadyCounts> ready;
    std::map<std::string, std::uint64_t> states;
    std::vector<Row> rows;
    std::size_t total = 0;
    for (const ModelState& model : roster.models()) {
        ready.emplace(&model, ReadyCounts(model));
        for (const WorkerState& worker : model.workers()) {
            const Row row{&model, &worker, attention_of(worker.state())};
            ++total;
            ++states[worker.state()];
            if (is_about(row, words)) { rows.push_back(row); }
        }
    }
    const std::size_t told = std::min({rows.size(), query.rows_max, kFleetRowsMax});
    std::partial_sort(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(told), rows.end(), comes_before);
    json::object out;
    out["total"] = total;
    out["matching"] = rows.size();
    json::object& counts = out["states"].emplace_object();
    for (const auto& [state, count] : states) {
        counts[state] = count;
    }
    json::array& list = out["rows"].emplace_array();
    for (std::size_t i = 0; i < told; ++i) {
        list.push_back(worker_json(rows[i], ready));
    }
    return out;
}

}  // namespace

std::vector<FleetChange> fleet_changes(const FleetMoment& before, const FleetMoment& now, std::size_t max) {
    Differences differences(now.unix_s, max);
    compare_scheduler(before, now, differences);
    if (before.roster && now.roster && now.scheduler_problem.empty()) {
        compare_models(before, now, differences);
        compare_workers(before, now, differences);
    }
    compare_processes(before, now, differences);
    return differences.take();
}

json::object fleet_json(const FleetMoment& now, const std::vector<FleetChange>& changes, const FleetQuery& query) {
    json::object out = now.view;
    json::object left_off;
    for (const std::string_view name : kLists) {
        json::value* list = out.if_contains(name);
        if (list == nullptr || !list->is_array() || list->get_array().size() <= kFleetViewRowsMax) { continue; }
        left_off[name] = list->get_array().size() - kFleetViewRowsMax;
        list->get_array().resize(kFleetViewRowsMax);
    }
    out["left_off"] = std::move(left_off);

    json::object scheduler;
    scheduler["reached"] = now.scheduler_problem.empty();
    scheduler["problem"] = now.scheduler_problem;
    scheduler["epoch"] = now.roster ? json::value(now.roster->scheduler_epoch()) : json::value(nullptr);
    scheduler["workers_age_s"] =
        now.roster ? json::value(std::max(0.0, std::round(now.unix_s - now.roster_unix_s))) : json::value(nullptr);
    out["scheduler"] = std::move(scheduler);

    json::array served;
    if (now.roster) {
        for (const ModelState& model : now.roster->models()) {
            json::object one;
            one["model"] = model.model();
            one["ready"] = model.ready();
            one["context_tokens"] = model.context_tokens();
            served.push_back(std::move(one));
        }
    }
    out["served"] = std::move(served);
    static const proto::DescribeReply kNobody;
    out["workers"] = workers_json(now.roster ? *now.roster : kNobody, query);

    json::array told;
    for (const FleetChange& change : changes) {
        json::object one;
        one["unix_s"] = change.unix_s;
        one["what"] = change.what;
        one["name"] = change.name;
        one["text"] = change.text;
        told.push_back(std::move(one));
    }
    out["changes"] = std::move(told);
    return out;
}

}  // namespace cli
