#include "sim/plan_file.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

namespace sim {
namespace {

using scheduler::planner::Curve;
using scheduler::planner::Grid;
using scheduler::planner::StepTimes;

constexpr std::size_t kFileBytesMax = 8u << 20;
constexpr std::size_t kPoolsMax = 256;
constexpr std::size_t kPointsMax = 100'000;
constexpr std::size_t kClassesMax = 32;  // as many as a gateway has

std::string short_number(double value) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 7).ptr;
    return std::string(text, end);
}

/// Reads sections and keys, and remembers the first thing that is wrong: what it gives after that is empty.
class Reader {
public:
    const std::optional<std::string>& problem() const { return problem_; }
    PlanFile file(const YAML::Node& root);

private:
    /// What is found wrong later is not told: it may follow from the first.
    void wrong(std::string what) {
        if (!problem_) { problem_ = std::move(what); }
    }
    bool is_good() const { return !problem_.has_value(); }

    double number(const YAML::Node& map, const std::string& key, double low, double high, double fallback = NAN);
    std::uint32_t count(const YAML::Node& map, const std::string& key, double low, double high, double fallback = NAN);
    std::string text(const YAML::Node& map, const std::string& key);
    void only(const YAML::Node& map, const std::string& what, const std::set<std::string>& known);
    std::vector<double> numbers(const YAML::Node& list, const std::string& key, std::size_t size = 0);
    Curve curve(const YAML::Node& node, const std::string& key);
    Grid grid(const YAML::Node& node, const std::string& key, std::size_t axes_wanted);
    scheduler::planner::FittedForms forms(const YAML::Node& node);
    StepTimes times(const YAML::Node& node);
    PlanPool pool(const YAML::Node& node);
    void read_levels(const YAML::Node& node, PlanPool& pool);
    scheduler::planner::Beside read_beside(const YAML::Node& node);
    scheduler::planner::HostWork read_host(const YAML::Node& node);
    void read_classes(const YAML::Node& classes, PlanFile& plan);

    std::optional<std::string> problem_;
};

double Reader::number(const YAML::Node& map, const std::string& key, double low, double high, double fallback) {
    const YAML::Node value = map[key];
    if (!value) {
        if (std::isnan(fallback)) { wrong(key + " is missing"); }
        return fallback;
    }
    double number = 0;
    if (!value.IsScalar() || !YAML::convert<double>::decode(value, number) || !(number >= low && number <= high)) {
        wrong(key + " has to be a number from " + short_number(low) + " to " + short_number(high));
    }
    return number;
}

std::uint32_t Reader::count(const YAML::Node& map, const std::string& key, double low, double high, double fallback) {
    const double value = number(map, key, low, high, fallback);
    if (is_good() && value != std::floor(value)) { wrong(key + " has to be a whole number"); }
    return is_good() ? static_cast<std::uint32_t>(value) : 0;
}

std::string Reader::text(const YAML::Node& map, const std::string& key) {
    const YAML::Node value = map[key];
    if (!value || !value.IsScalar()) {
        wrong(key + " is missing, or no text");
        return {};
    }
    return value.Scalar();
}

void Reader::only(const YAML::Node& map, const std::string& what, const std::set<std::string>& known) {
    if (!map.IsMap()) { return wrong(what + " has to be a section"); }
    for (const auto& entry : map) {
        const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
        if (!known.contains(key)) { return wrong(what + ": \"" + key + "\" is not known"); }
    }
}

std::vector<double> Reader::numbers(const YAML::Node& list, const std::string& key, std::size_t size) {
    if (!is_good()) { return {}; }
    if (!list || !list.IsSequence() || list.size() > kPointsMax || (size > 0 && list.size() != size)) {
        wrong("times." + key + " has to be a list" + (size > 0 ? " of " + std::to_string(size) : "") + " numbers");
        return {};
    }
    std::vector<double> values;
    for (const auto& item : list) {
        double value = 0;
        if (!item.IsScalar() || !YAML::convert<double>::decode(item, value) || !(value >= 0 && value <= 1e12)) {
            wrong("times." + key + " holds something that is no number of at least 0");
            return {};
        }
        values.push_back(value);
    }
    return values;
}

Curve Reader::curve(const YAML::Node& node, const std::string& key) {
    if (!node) { return {}; }
    only(node, "times." + key, {"at", "seconds"});
    if (!is_good()) { return {}; }
    const std::vector<double> at = numbers(node["at"], key + ".at");
    const std::vector<double> seconds = numbers(node["seconds"], key + ".seconds", at.size());
    if (!is_good()) { return {}; }
    if (seconds.size() != at.size()) {
        wrong("times." + key + ".seconds has to have as many numbers as its at");
        return {};
    }
    std::vector<Curve::Sample> samples;
    for (std::size_t i = 0; i < at.size(); ++i) {
        samples.push_back({at[i], seconds[i]});
    }
    return Curve(std::move(samples));
}

Grid Reader::grid(const YAML::Node& node, const std::string& key, std::size_t axes_wanted) {
    if (!node) { return {}; }
    only(node, "times." + key, {"axes", "seconds"});
    if (!is_good()) { return {}; }
    const YAML::Node axes_node = node["axes"];
    if (!axes_node || !axes_node.IsSequence() || axes_node.size() != axes_wanted) {
        wrong("times." + key + ".axes has to be a list of " + std::to_string(axes_wanted) + " lists");
        return {};
    }
    std::vector<std::vector<double>> axes;
    std::size_t size = 1;
    for (const auto& axis : axes_node) {
        axes.push_back(numbers(axis, key + ".axes"));
        if (axes.back().empty()) { wrong("times." + key + ".axes holds an empty list"); }
        if (!is_good()) { return {}; }
        size *= axes.back().size();
        if (size > kPointsMax) {
            wrong("times." + key + " is too large");
            return {};
        }
    }
    const std::vector<double> seconds = numbers(node["seconds"], key + ".seconds", size);
    if (!is_good()) { return {}; }
    std::vector<Grid::Point> points;
    for (std::size_t i = 0; i < size; ++i) {
        Grid::Point point;
        point.value = seconds[i];
        std::size_t rest = i;
        for (std::size_t axis = axes.size(); axis-- > 0; rest /= axes[axis].size()) {
            point.at[axis] = axes[axis][rest % axes[axis].size()];
        }
        points.push_back(point);
    }
    return Grid(axes.size(), points);
}

scheduler::planner::FittedForms Reader::forms(const YAML::Node& node) {
    only(node, "times.fitted", {"prefill", "decode_small", "decode_large", "large_from", "batches"});
    scheduler::planner::FittedForms forms;
    if (!is_good()) { return forms; }
    const auto read = [&](const char* key, scheduler::planner::FittedForms::Form& form) {
        const std::vector<double> values = numbers(node[key], std::string("fitted.") + key, form.size());
        std::copy(values.begin(), values.end(), form.begin());
    };
    read("prefill", forms.prefill);
    read("decode_small", forms.decode_small);
    read("decode_large", forms.decode_large);
    forms.large_from = number(node, "large_from", 0, 1e9);
    forms.batches = curve(node["batches"], "fitted.batches");
    return forms;
}

StepTimes Reader::times(const YAML::Node& node) {
    only(node, "times", {"step_s", "sequence_s", "tokens", "sampled", "prefill", "decode", "mixed", "fitted"});
    if (!is_good()) { return {}; }
    StepTimes times;
    times.step_seconds = number(node, "step_s", 0, 1e4, 0);
    times.sequence_seconds = number(node, "sequence_s", 0, 1e4, 0);
    times.tokens = curve(node["tokens"], "tokens");
    times.sampled = curve(node["sampled"], "sampled");
    times.prefill = grid(node["prefill"], "prefill", 2);
    times.decode = grid(node["decode"], "decode", 2);
    times.mixed = grid(node["mixed"], "mixed", 4);
    if (const YAML::Node fitted = node["fitted"]) { times.fitted = forms(fitted); }
    if (!times.fitted && times.tokens.empty() && times.step_seconds == 0) {
        wrong("times says nothing: tokens, fitted or step_s is needed");
    }
    return times;
}

PlanPool Reader::pool(const YAML::Node& node) {
    only(node, "a pool", {"role", "count", "device", "threads", "tensor", "pipeline", "limits", "kv_levels", "times"});
    if (!is_good()) { return {}; }
    PlanPool pool;
    const std::string role = text(node, "role");
    if (role != "prefill" && role != "decode" && role != "mixed") {
        wrong("role has to be prefill, decode or mixed");
        return pool;
    }
    pool.role = role == "prefill" ? proto::Role::prefill : role == "decode" ? proto::Role::decode : proto::Role::mixed;
    pool.count = count(node, "count", 1, 65'536);
    pool.device = text(node, "device");
    pool.threads = count(node, "threads", 1, 4096, 0);
    pool.split.tensor = count(node, "tensor", 1, 1024, 1);
    pool.split.pipeline = count(node, "pipeline", 1, 1024, 1);
    const YAML::Node limits = node["limits"];
    if (!limits) { wrong("limits is missing"); }
    if (!is_good()) { return pool; }
    only(limits, "limits", {"batch_sequences_max", "batch_tokens_max", "kv_tokens"});
    if (!is_good()) { return pool; }
    pool.batch_sequences_max = count(limits, "batch_sequences_max", 1, 65'536);
    pool.batch_tokens_max = count(limits, "batch_tokens_max", 1, 1 << 20);
    pool.kv_tokens = number(limits, "kv_tokens", 1, 1e12);
    if (const YAML::Node levels = node["kv_levels"]) { read_levels(levels, pool); }
    if (const YAML::Node node_of_times = node["times"]) {
        pool.times = times(node_of_times);
        pool.has_times = true;
    }
    return pool;
}

void Reader::read_levels(const YAML::Node& node, PlanPool& pool) {
    only(node, "kv_levels", {"bytes_per_token", "host", "disk"});
    if (!is_good()) { return; }
    pool.kv_bytes_per_token = number(node, "bytes_per_token", 1, 1e9);
    for (const char* name : {"host", "disk"}) {
        const YAML::Node level = node[name];
        if (!level) { continue; }
        only(level, std::string("kv_levels.") + name, {"bytes", "bytes_per_s", "save_bytes_per_s", "launch_s"});
        if (!is_good()) { return; }
        PlanLevel read;
        read.name = name;
        read.bytes = number(level, "bytes", 1, 1e15);
        read.load_bytes_per_second = number(level, "bytes_per_s", 1, 1e15);
        read.save_bytes_per_second = number(level, "save_bytes_per_s", 1, 1e15, read.load_bytes_per_second);
        read.launch_s = number(level, "launch_s", 0, 10, 0);
        pool.levels.push_back(std::move(read));
    }
    if (pool.levels.empty()) { wrong("kv_levels has neither host nor disk"); }
}

void Reader::read_classes(const YAML::Node& classes, PlanFile& plan) {
    if (!classes.IsMap() || classes.size() > kClassesMax) {
        return wrong("slo_classes has to be a section of up to " + std::to_string(kClassesMax) + " classes");
    }
    for (const auto& entry : classes) {
        const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
        const auto is_odd = [](char c) { return !std::isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-'; };
        if (name.empty() || name.size() > 64 || std::any_of(name.begin(), name.end(), is_odd)) {
            return wrong("slo_classes holds a class whose name is not 1 to 64 of a-z 0-9 _ -");
        }
        only(entry.second, "slo_classes." + name, {"ttft_ms", "tpot_ms", "attainment", "priority"});
        if (!is_good()) { return; }
        const PlanFile::Class one{.name = name,
                                  .ttft_s = number(entry.second, "ttft_ms", 0, 1e9, 0) / 1e3,
                                  .tpot_s = number(entry.second, "tpot_ms", 0, 1e9, 0) / 1e3,
                                  .attainment = number(entry.second, "attainment", 0, 1, 0.9),
                                  .priority = number(entry.second, "priority", -100, 100, 0)};
        plan.classes.push_back(one);
        if (name != "default") { continue; }
        plan.ttft_s = one.ttft_s;
        plan.tpot_s = one.tpot_s;
        plan.attainment = one.attainment;
    }
}

scheduler::planner::Beside Reader::read_beside(const YAML::Node& node) {
    only(node, "machine.beside", {"prefill_by_prefill", "prefill_by_decode", "decode_by_prefill", "decode_by_decode"});
    if (!is_good()) { return {}; }
    const auto share = [&](const char* name) { return number(node, name, 0, 100, 0); };
    return {.prefill_by_prefill = share("prefill_by_prefill"),
            .prefill_by_decode = share("prefill_by_decode"),
            .decode_by_prefill = share("decode_by_prefill"),
            .decode_by_decode = share("decode_by_decode")};
}

scheduler::planner::HostWork Reader::read_host(const YAML::Node& node) {
    only(node, "machine.host", {"step_s", "handed_token_s"});
    if (!is_good()) { return {}; }
    return {.step_seconds = number(node, "step_s", 0, 1, 0),
            .handed_token_seconds = number(node, "handed_token_s", 0, 1, 0)};
}

PlanFile Reader::file(const YAML::Node& root) {
    only(root, "the plan",
         {"version", "model", "model_shape", "machine", "pools", "slo_classes", "hand_off", "assumed", "predicted"});
    PlanFile plan;
    if (!is_good()) { return plan; }
    plan.model = text(root, "model");
    if (const YAML::Node shape = root["model_shape"]) {
        only(shape, "model_shape", {"layers", "hidden", "heads_kv", "head_dim", "vocabulary"});
        if (!is_good()) { return plan; }
        plan.shape = PlanFile::Shape{.layers = count(shape, "layers", 1, 1e6),
                                     .hidden = count(shape, "hidden", 1, 1e8),
                                     .heads_kv = count(shape, "heads_kv", 1, 1e6),
                                     .head_dim = count(shape, "head_dim", 1, 1e6),
                                     .vocabulary = count(shape, "vocabulary", 1, 1e9)};
    }
    if (const YAML::Node machine = root["machine"]) {
        only(machine, "machine", {"cores", "beside", "host"});
        if (!is_good()) { return plan; }
        plan.cores = count(machine, "cores", 1, 4096);
        if (const YAML::Node beside = machine["beside"]) { plan.beside = read_beside(beside); }
        if (const YAML::Node host = machine["host"]) { plan.host = read_host(host); }
    }
    const YAML::Node pools = root["pools"];
    if (!pools || !pools.IsSequence() || pools.size() == 0 || pools.size() > kPoolsMax) {
        wrong("pools has to be a list of at least one");
        return plan;
    }
    for (const auto& node : pools) {
        plan.pools.push_back(pool(node));
        if (!is_good()) { return plan; }
    }
    if (const YAML::Node classes = root["slo_classes"]) { read_classes(classes, plan); }
    if (const YAML::Node hand_off = root["hand_off"]) {
        only(
            hand_off, "hand_off",
            {"kv_bytes_per_token", "bytes_per_s", "latency_s", "layers", "sender_s_per_token", "receiver_s_per_token"});
        if (!is_good()) { return plan; }
        plan.kv_bytes_per_token = number(hand_off, "kv_bytes_per_token", 0, 1e9);
        plan.link_bytes_per_second = number(hand_off, "bytes_per_s", 0, 1e15, 0);
        plan.link_latency_s = number(hand_off, "latency_s", 0, 100, 0);
        plan.layers = count(hand_off, "layers", 1, 10'000, 1);
        plan.sender_s_per_token = number(hand_off, "sender_s_per_token", 0, 1, 0);
        plan.receiver_s_per_token = number(hand_off, "receiver_s_per_token", 0, 1, 0);
    }
    return plan;
}

void write_list(std::string& out, const std::vector<double>& values) {
    out += '[';
    for (std::size_t i = 0; i < values.size(); ++i) {
        out += (i > 0 ? ", " : "") + short_number(values[i]);
    }
    out += ']';
}

void write_curve(std::string& out, const std::string& indent, const char* key, const Curve& curve) {
    if (curve.empty()) { return; }
    std::vector<double> at;
    std::vector<double> seconds;
    for (const Curve::Sample& sample : curve.samples()) {
        at.push_back(sample.x);
        seconds.push_back(sample.y);
    }
    out += indent + key + ": {at: ";
    write_list(out, at);
    out += ", seconds: ";
    write_list(out, seconds);
    out += "}\n";
}

void write_grid(std::string& out, const std::string& indent, const char* key, const Grid& grid) {
    if (grid.empty()) { return; }
    out += indent + key + ": {axes: [";
    for (std::size_t axis = 0; axis < grid.axes(); ++axis) {
        out += axis > 0 ? ", " : "";
        write_list(out, grid.axis(axis));
    }
    out += "], seconds: ";
    write_list(out, grid.values());
    out += "}\n";
}

}  // namespace

base::Result<PlanFile> read_plan(std::string_view yaml, const std::string& name) {
    const auto invalid = [&name](const std::string& why) {
        return base::fail(base::ErrorCode::invalid_argument, name + ": " + why);
    };
    if (yaml.size() > kFileBytesMax) { return invalid("more than 8 MiB are no placement file"); }
    try {
        const YAML::Node root = YAML::Load(std::string(yaml));
        if (!root.IsMap() || !root["version"] || !root["pools"]) {
            return invalid("is no placement file: it needs version, model, pools, as `sluice plan --out` writes them");
        }
        const std::string version = root["version"].IsScalar() ? root["version"].Scalar() : "(no number)";
        if (version != "1") {
            return base::fail(base::ErrorCode::unimplemented,
                              name + ": version " + version + " is not known here; 1 is");
        }
        Reader reader;
        PlanFile plan = reader.file(root);
        if (reader.problem()) { return invalid(*reader.problem()); }
        return plan;
    } catch (const YAML::Exception& error) { return invalid(error.what()); }
}

std::string times_yaml(const StepTimes& times, const std::string& indent) {
    std::string out = indent + "step_s: " + short_number(times.step_seconds) + "\n";
    if (times.sequence_seconds > 0) { out += indent + "sequence_s: " + short_number(times.sequence_seconds) + "\n"; }
    if (times.fitted) {
        const auto form = [&out](const char* key, const scheduler::planner::FittedForms::Form& values) {
            out += std::string(key) + ": ";
            write_list(out, {values.begin(), values.end()});
            out += ", ";
        };
        out += indent + "fitted: {";
        form("prefill", times.fitted->prefill);
        form("decode_small", times.fitted->decode_small);
        form("decode_large", times.fitted->decode_large);
        out += "large_from: " + short_number(times.fitted->large_from);
        if (!times.fitted->batches.empty()) {
            std::string batches;
            write_curve(batches, ", ", "batches", times.fitted->batches);
            out += batches.substr(0, batches.size() - 1);  // its line goes on
        }
        out += "}\n";
        return out;
    }
    write_curve(out, indent, "tokens", times.tokens);
    write_curve(out, indent, "sampled", times.sampled);
    write_grid(out, indent, "prefill", times.prefill);
    write_grid(out, indent, "decode", times.decode);
    write_grid(out, indent, "mixed", times.mixed);
    return out;
}

}  // namespace sim
