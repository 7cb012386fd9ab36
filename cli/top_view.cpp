#include "cli/top_view.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

namespace cli {

namespace json = boost::json;

namespace {

/// Values of one metric over all processes, summed by the labels that are asked for.
class Sums {
public:
    using Key = std::vector<std::string>;

    Sums(const TopMoment& moment, std::string_view metric, const std::vector<std::string>& by,
         const std::map<std::string, std::string>& where = {}) {
        for (const TopSource& source : moment.sources) {
            for (const Sample& sample : source.samples) {
                if (sample.name != metric || !std::isfinite(sample.value)) { continue; }
                if (!std::all_of(where.begin(), where.end(),
                                 [&](const auto& one) { return sample.label(one.first) == one.second; })) {
                    continue;
                }
                Key key;
                for (const std::string& label : by) {
                    key.emplace_back(sample.label(label));
                }
                values_[std::move(key)] += sample.value;
            }
        }
    }
    double at(const Key& key) const {
        const auto found = values_.find(key);
        return found == values_.end() ? 0 : found->second;
    }
    const std::map<Key, double>& values() const { return values_; }

private:
    std::map<Key, double> values_;
};

double round_to(double value, double step) {
    return std::round(value / step) * step;
}

/// Of counters: what came since, a second. A process that began anew counts from its begin.
class Rates {
public:
    Rates(const TopMoment& now, const TopMoment* before) : now_(now), before_(before) {
        if (before_ != nullptr) { seconds_ = std::chrono::duration<double>(now.at - before->at).count(); }
    }
    double seconds() const { return seconds_; }
    /// Of what a histogram counted since: values below which shares of 0, 1/16, ... 1 of them lie, linear within a
    /// bucket. Null: nothing was counted.
    json::value quantiles(const std::string& metric, std::map<std::string, std::string> where) const {
        if (seconds_ <= 0) { return nullptr; }
        const std::vector<std::string> by = {"le"};
        const Sums after(now_, metric + "_bucket", by, where);
        const Sums earlier(*before_, metric + "_bucket", by, where);
        std::map<double, double> counted;  // up to that edge
        for (const auto& [edge, count] : after.values()) {
            const double le = edge[0] == "+Inf" ? HUGE_VAL : std::strtod(edge[0].c_str(), nullptr);
            const double before = earlier.at(edge);
            counted[le] = count < before ? count : count - before;
        }
        if (counted.empty() || counted.rbegin()->second <= 0) { return nullptr; }
        json::array values;
        for (int i = 0; i <= kQuantileSteps; ++i) {
            values.emplace_back(round_to(value_at(counted, static_cast<double>(i) / kQuantileSteps), 0.1));
        }
        return values;
    }
    json::value of(std::string_view metric, const std::vector<std::string>& by, const Sums::Key& key,
                   const std::map<std::string, std::string>& where = {}) const {
        if (seconds_ <= 0) { return nullptr; }
        const double after = Sums(now_, metric, by, where).at(key);
        const double earlier = Sums(*before_, metric, by, where).at(key);
        return round_to((after < earlier ? after : after - earlier) / seconds_, 0.001);
    }

private:
    static constexpr int kQuantileSteps = 16;
    static double value_at(const std::map<double, double>& counted, double share) {
        const double wanted = share * counted.rbegin()->second;
        double edge = 0;
        double below = 0;
        for (const auto& [le, count] : counted) {
            const bool is_open = std::isinf(le);
            if (count >= wanted && count > below) {
                return is_open ? edge : edge + (le - edge) * std::max(0.0, wanted - below) / (count - below);
            }
            if (!is_open) { edge = le; }
            below = count;
        }
        return edge;
    }

    const TopMoment& now_;
    const TopMoment* before_;
    double seconds_ = 0;
};

/// What classes are meant to attain (`slo_classes.NAME.attainment`), as the strictest of the gateways has it.
std::map<std::string, double, std::less<>> aims_of(const TopMoment& now) {
    std::map<std::string, double, std::less<>> aims;
    for (const TopSource& source : now.sources) {
        for (const Sample& sample : source.samples) {
            if (sample.name != "sluice_gateway_slo_objective_ratio" || !std::isfinite(sample.value)) { continue; }
            double& aim = aims[std::string(sample.label("slo_class"))];
            aim = std::max(aim, sample.value);
        }
    }
    return aims;
}

/// As in scripts/monitoring/rules.py.
double objective_of(std::string_view slo, std::optional<double> aim) {
    if (slo == "availability") { return 0.999; }
    if (aim) { return *aim; }
    return slo == "all" ? 0.9 : 0.95;
}
constexpr double kMissesLeast = 0.001;  // of a class that may miss none

std::optional<double> only(const TopSource& source, std::string_view metric) {
    for (const Sample& sample : source.samples) {
        if (sample.name == metric) { return sample.value; }
    }
    return std::nullopt;
}

/// The roles that a process holds, by what it exports.
json::array roles_of(const TopSource& source) {
    std::set<std::string> roles;
    for (const Sample& sample : source.samples) {
        if (sample.name == "sluice_gateway_inflight_requests") { roles.insert("gateway"); }
        if (sample.name == "sluice_scheduler_leads") { roles.insert("scheduler"); }
        if (sample.name == "sluice_worker_requests_running") { roles.emplace(sample.label("role")); }
    }
    json::array all;
    for (const std::string& role : roles) {
        all.emplace_back(role);
    }
    return all;
}

json::object process_of(const TopSource& source, const TopMoment& now, const TopMoment* before) {
    json::object process;
    process["url"] = source.url;
    process["up"] = source.problem.empty();
    if (!source.problem.empty()) {
        process["problem"] = source.problem;
        return process;
    }
    process["roles"] = roles_of(source);
    for (const Sample& sample : source.samples) {
        if (sample.name == "sluice_build_info") { process["version"] = std::string(sample.label("version")); }
        if (sample.name == "sluice_scheduler_leads") { process["leads"] = sample.value == 1; }
    }
    if (const auto started = only(source, "process_start_time_seconds")) {
        process["uptime_s"] = std::max(0.0, std::round(now.unix_s - *started));
    }
    if (const auto bytes = only(source, "process_resident_memory_bytes")) { process["resident_bytes"] = *bytes; }
    process["cpu_cores"] = nullptr;
    const auto cpu = only(source, "process_cpu_seconds_total");
    if (before == nullptr || !cpu) { return process; }
    for (const TopSource& earlier : before->sources) {
        const auto cpu_before = only(earlier, "process_cpu_seconds_total");
        const double seconds = std::chrono::duration<double>(now.at - before->at).count();
        if (earlier.url != source.url || !cpu_before || *cpu < *cpu_before || seconds <= 0) { continue; }
        process["cpu_cores"] = round_to((*cpu - *cpu_before) / seconds, 0.01);
    }
    return process;
}

json::array models_of(const TopMoment& now, const Rates& rates) {
    json::array models;
    const Sums running(now, "sluice_gateway_inflight_requests", {"model"});
    for (const auto& [key, value] : running.values()) {
        if (key[0] == "none" && value == 0) { continue; }
        json::object model;
        model["model"] = key[0];
        model["running"] = value;
        model["requests_per_s"] = rates.of("sluice_gateway_requests_total", {"model"}, key);
        model["answered_per_s"] = rates.of("sluice_gateway_requests_total", {"model"}, key, {{"code", "200"}});
        model["prompt_tokens_per_s"] = rates.of("sluice_gateway_tokens_total", {"model"}, key, {{"kind", "prompt"}});
        model["completion_tokens_per_s"] =
            rates.of("sluice_gateway_tokens_total", {"model"}, key, {{"kind", "completion"}});
        model["cached_prompt_tokens_per_s"] =
            rates.of("sluice_gateway_tokens_total", {"model"}, key, {{"kind", "cached_prompt"}});
        for (const char* kind : {"prompt", "completion"}) {
            model[std::string(kind) + "_tokens_quantiles"] =
                rates.quantiles("sluice_gateway_request_tokens", {{"model", key[0]}, {"kind", kind}});
        }
        model["goodput_requests_per_s"] =
            rates.of("sluice_gateway_slo_requests_total", {"model"}, key, {{"slo", "all"}, {"outcome", "good"}});
        models.push_back(std::move(model));
    }
    return models;
}

json::array slo_of(const TopMoment& now, const TopMoment* before) {
    const std::vector<std::string> by = {"model", "slo_class", "slo"};
    const auto count = [&](const TopMoment& moment, const char* outcome) {
        return Sums(moment, "sluice_gateway_slo_requests_total", by, {{"outcome", outcome}});
    };
    const Sums good = count(now, "good");
    const Sums bad = count(now, "bad");
    std::set<Sums::Key> keys;
    for (const Sums* sums : {&good, &bad}) {
        for (const auto& [key, value] : sums->values()) {
            if (value > 0) { keys.insert(key); }
        }
    }
    const std::optional<Sums> good_before = before ? std::optional(count(*before, "good")) : std::nullopt;
    const std::optional<Sums> bad_before = before ? std::optional(count(*before, "bad")) : std::nullopt;
    const std::map<std::string, double, std::less<>> aims = aims_of(now);
    json::array all;
    for (const Sums::Key& key : keys) {
        double met = good.at(key);
        double missed = bad.at(key);
        bool is_interval = false;
        if (before != nullptr) {
            const double met_since = met - good_before->at(key);
            const double missed_since = missed - bad_before->at(key);
            is_interval = met_since >= 0 && missed_since >= 0 && met_since + missed_since > 0;
            if (is_interval) {
                met = met_since;
                missed = missed_since;
            }
        }
        const auto aim = aims.find(key[1]);
        const double objective = objective_of(key[2], aim == aims.end() ? std::nullopt : std::optional(aim->second));
        json::object one;
        one["model"] = key[0];
        one["slo_class"] = key[1];
        one["slo"] = key[2];
        one["window"] = is_interval ? "interval" : "start";
        one["met"] = met;
        one["missed"] = missed;
        one["attainment"] = round_to(met / (met + missed), 0.0001);
        one["objective"] = objective;
        one["burn"] = round_to(missed / (met + missed) / std::max(kMissesLeast, 1 - objective), 0.01);
        all.push_back(std::move(one));
    }
    return all;
}

json::array pools_of(const TopMoment& now) {
    const Sums states(now, "sluice_scheduler_workers", {"model", "role", "state"});
    const Sums waiting(now, "sluice_worker_requests_waiting", {"model", "role"});
    const Sums running(now, "sluice_worker_requests_running", {"model", "role"});
    std::set<std::pair<std::string, std::string>> keys;
    for (const auto& [key, value] : states.values()) {
        if (value > 0) { keys.emplace(key[0], key[1]); }
    }
    for (const auto& [key, value] : running.values()) {
        keys.emplace(key[0], key[1]);
    }
    json::array pools;
    for (const auto& [model, role] : keys) {
        json::object pool;
        pool["model"] = model;
        pool["role"] = role;
        for (const char* state : {"ready", "draining", "suspect", "ejected"}) {
            pool[state] = states.at({model, role, state});
        }
        pool["waiting"] = waiting.at({model, role});
        pool["running"] = running.at({model, role});
        pools.push_back(std::move(pool));
    }
    return pools;
}

json::array queues_of(const TopMoment& now) {
    const Sums requests(now, "sluice_scheduler_queue_requests", {"model", "stage"});
    const Sums tokens(now, "sluice_scheduler_queue_tokens", {"model", "stage"});
    const Sums saturation(now, "sluice_scheduler_pool_saturation_ratio", {"model", "stage"});
    json::array queues;
    for (const auto& [key, value] : requests.values()) {
        json::object queue;
        queue["model"] = key[0];
        queue["stage"] = key[1];
        queue["requests"] = value;
        queue["tokens"] = tokens.at(key);
        queue["saturation"] = round_to(saturation.at(key), 0.001);
        queues.push_back(std::move(queue));
    }
    return queues;
}

json::array kv_of(const TopMoment& now) {
    const Sums blocks(now, "sluice_worker_kv_blocks", {"worker", "state"});
    const Sums tiers(now, "sluice_kv_tier_blocks", {"worker", "tier", "state"});
    std::map<std::string, std::map<std::string, std::map<std::string, double>>> all;  // worker -> level -> state
    for (const auto& [key, value] : blocks.values()) {
        all[key[0]]["pool"][key[1]] = value;
    }
    for (const auto& [key, value] : tiers.values()) {
        all[key[0]][key[1]][key[2]] = value;
    }
    json::array rows;
    for (const auto& [worker, levels] : all) {
        for (const auto& [level, states] : levels) {
            double sum = 0;
            double in_use = 0;
            json::object row;
            row["worker"] = worker;
            row["level"] = level;
            for (const auto& [state, value] : states) {
                row[state] = value;
                sum += value;
                if (state == "used" || state == "pinned" || state == "stranded") { in_use += value; }
            }
            if (sum <= 0) { continue; }
            row["blocks"] = sum;
            row["in_use_ratio"] = round_to(in_use / sum, 0.0001);
            rows.push_back(std::move(row));
        }
    }
    return rows;
}

json::array transfers_of(const TopMoment& now, const Rates& rates) {
    const std::map<std::string, std::string> sent = {{"direction", "send"}};
    const Sums bytes(now, "sluice_kv_transfer_bytes_total", {"transport", "codec"}, sent);
    const Sums ended(now, "sluice_kv_transfers_total", {"transport", "outcome"}, sent);
    const Sums inflight(now, "sluice_kv_transfer_inflight_bytes", {"transport"});
    std::map<std::string, std::pair<double, double>> ends;  // transport -> ok, others
    for (const auto& [key, value] : ended.values()) {
        (key[1] == "ok" ? ends[key[0]].first : ends[key[0]].second) += value;
    }
    json::array all;
    for (const auto& [key, value] : bytes.values()) {
        json::object one;
        one["transport"] = key[0];
        one["codec"] = key[1];
        one["sent_bytes"] = value;
        one["sent_bytes_per_s"] = rates.of("sluice_kv_transfer_bytes_total", {"transport", "codec"}, key, sent);
        one["inflight_bytes"] = inflight.at({key[0]});
        one["ok"] = ends[key[0]].first;
        one["failed"] = ends[key[0]].second;
        all.push_back(std::move(one));
    }
    return all;
}

double sum_of(const json::array& rows, std::string_view name) {
    double sum = 0;
    for (const json::value& row : rows) {
        sum += row.get_object().at(name).get_double();
    }
    return sum;
}

/// The few figures that say whether somebody should look closer.
json::object summary_of(const TopMoment& now, const json::object& view) {
    const auto rows = [&view](std::string_view name) -> const json::array& { return view.at(name).get_array(); };
    const auto up = std::count_if(now.sources.begin(), now.sources.end(),
                                  [](const TopSource& source) { return source.problem.empty(); });
    json::object summary;
    summary["processes_up"] = static_cast<double>(up);
    summary["processes_down"] = static_cast<double>(now.sources.size()) - static_cast<double>(up);
    summary["requests_running"] = sum_of(rows("models"), "running");
    summary["requests_queued"] = sum_of(rows("queues"), "requests");
    summary["burn_max"] = nullptr;  // no target has been missed or met yet
    for (const json::value& slo : rows("slo")) {
        const double burn = slo.at("burn").get_double();
        const json::value& most = summary["burn_max"];
        summary["burn_max"] = most.is_null() ? burn : std::max(burn, most.get_double());
    }
    return summary;
}

}  // namespace

json::object top_view(const TopMoment& now, const TopMoment* before) {
    const Rates rates(now, before);
    json::object view;
    view["unix_s"] = std::round(now.unix_s);
    view["interval_s"] = before == nullptr ? json::value(nullptr) : json::value(round_to(rates.seconds(), 0.001));
    json::array processes;
    for (const TopSource& source : now.sources) {
        processes.push_back(process_of(source, now, before));
    }
    view["processes"] = std::move(processes);
    view["models"] = models_of(now, rates);
    view["slo"] = slo_of(now, before);
    view["pools"] = pools_of(now);
    view["queues"] = queues_of(now);
    view["kv"] = kv_of(now);
    view["transfers"] = transfers_of(now, rates);
    view["summary"] = summary_of(now, view);
    return view;
}

}  // namespace cli
