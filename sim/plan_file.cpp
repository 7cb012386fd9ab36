#include "sim/plan_file.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
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

/// What is wrong with the file; caught in read_plan().
struct Problem {
    std::string text;
};

std::string short_number(double value) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 7).ptr;
    return std::string(text, end);
}

double number(const YAML::Node& map, const std::string& key, double low, double high, double fallback = NAN) {
    const YAML::Node value = map[key];
    if (!value) {
        if (std::isnan(fallback)) { throw Problem{key + " is missing"}; }
        return fallback;
    }
    double number = 0;
    if (!value.IsScalar() || !YAML::convert<double>::decode(value, number) || !(number >= low && number <= high)) {
        throw Problem{key + " has to be a number from " + short_number(low) + " to " + short_number(high)};
    }
    return number;
}

std::uint32_t count(const YAML::Node& map, const std::string& key, double low, double high, double fallback = NAN) {
    const double value = number(map, key, low, high, fallback);
    if (value != std::floor(value)) { throw Problem{key + " has to be a whole number"}; }
    return static_cast<std::uint32_t>(value);
}

std::string text(const YAML::Node& map, const std::string& key) {
    const YAML::Node value = map[key];
    if (!value || !value.IsScalar()) { throw Problem{key + " is missing, or no text"}; }
    return value.Scalar();
}

void only(const YAML::Node& map, const std::string& what, const std::set<std::string>& known) {
    if (!map.IsMap()) { throw Problem{what + " has to be a section"}; }
    for (const auto& entry : map) {
        const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
        if (!known.contains(key)) { throw Problem{what + ": \"" + key + "\" is not known"}; }
    }
}

std::vector<double> numbers(const YAML::Node& list, const std::string& key, std::size_t size = 0) {
    if (!list || !list.IsSequence() || list.size() > kPointsMax || (size > 0 && list.size() != size)) {
        throw Problem{"times." + key + " has to be a list" + (size > 0 ? " of " + std::to_string(size) : "") +
                      " numbers"};
    }
    std::vector<double> values;
    for (const auto& item : list) {
        double value = 0;
        if (!item.IsScalar() || !YAML::convert<double>::decode(item, value) || !(value >= 0 && value <= 1e12)) {
            throw Problem{"times." + key + " holds something that is no number of at least 0"};
        }
        values.push_back(value);
    }
    return values;
}

Curve read_curve(const YAML::Node& node, const std::string& key) {
    if (!node) { return {}; }
    only(node, "times." + key, {"at", "seconds"});
    const std::vector<double> at = numbers(node["at"], key + ".at");
    const std::vector<double> seconds = numbers(node["seconds"], key + ".seconds", at.size());
    std::vector<Curve::Sample> samples;
    for (std::size_t i = 0; i < at.size(); ++i) {
        samples.push_back({at[i], seconds[i]});
    }
    return Curve(std::move(samples));
}

Grid read_grid(const YAML::Node& node, const std::string& key) {
    if (!node) { return {}; }
    only(node, "times." + key, {"axes", "seconds"});
    const YAML::Node axes_node = node["axes"];
    if (!axes_node || !axes_node.IsSequence() || axes_node.size() == 0 || axes_node.size() > Grid::kAxesMax) {
        throw Problem{"times." + key + ".axes has to be a list of up to 4 lists"};
    }
    std::vector<std::vector<double>> axes;
    std::size_t size = 1;
    for (const auto& axis : axes_node) {
        axes.push_back(numbers(axis, key + ".axes"));
        if (axes.back().empty()) { throw Problem{"times." + key + ".axes holds an empty list"}; }
        size *= axes.back().size();
        if (size > kPointsMax) { throw Problem{"times." + key + " is too large"}; }
    }
    const std::vector<double> seconds = numbers(node["seconds"], key + ".seconds", size);
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

StepTimes read_times(const YAML::Node& node) {
    only(node, "times", {"step_s", "sequence_s", "tokens", "sampled", "prefill", "decode", "mixed", "fitted"});
    StepTimes times;
    times.step_seconds = number(node, "step_s", 0, 1e4, 0);
    times.sequence_seconds = number(node, "sequence_s", 0, 1e4, 0);
    times.tokens = read_curve(node["tokens"], "tokens");
    times.sampled = read_curve(node["sampled"], "sampled");
    times.prefill = read_grid(node["prefill"], "prefill");
    times.decode = read_grid(node["decode"], "decode");
    times.mixed = read_grid(node["mixed"], "mixed");
    const auto axes_are = [](const Grid& grid, std::size_t count, const char* key) {
        if (!grid.empty() && grid.axes() != count) {
            throw Problem{std::string("times.") + key + " has to have " + std::to_string(count) + " axes"};
        }
    };
    axes_are(times.prefill, 2, "prefill");
    axes_are(times.decode, 2, "decode");
    axes_are(times.mixed, 4, "mixed");
    if (const YAML::Node fitted = node["fitted"]) {
        only(fitted, "times.fitted", {"prefill", "decode_small", "decode_large", "large_from"});
        scheduler::planner::FittedForms forms;
        const auto read = [&fitted](const char* key, scheduler::planner::FittedForms::Form& form) {
            const std::vector<double> values = numbers(fitted[key], std::string("fitted.") + key, form.size());
            std::copy(values.begin(), values.end(), form.begin());
        };
        read("prefill", forms.prefill);
        read("decode_small", forms.decode_small);
        read("decode_large", forms.decode_large);
        forms.large_from = number(fitted, "large_from", 0, 1e9);
        times.fitted = forms;
    }
    if (!times.fitted && times.tokens.empty() && times.step_seconds == 0) {
        throw Problem{"times says nothing: tokens, fitted or step_s is needed"};
    }
    return times;
}

PlanPool read_pool(const YAML::Node& node) {
    only(node, "a pool", {"role", "count", "device", "tensor", "pipeline", "limits", "times"});
    PlanPool pool;
    const std::string role = text(node, "role");
    if (role != "prefill" && role != "decode" && role != "mixed") {
        throw Problem{"role has to be prefill, decode or mixed"};
    }
    pool.role = role == "prefill" ? proto::Role::prefill : role == "decode" ? proto::Role::decode : proto::Role::mixed;
    pool.count = count(node, "count", 1, 65'536);
    pool.device = text(node, "device");
    pool.split.tensor = count(node, "tensor", 1, 1024, 1);
    pool.split.pipeline = count(node, "pipeline", 1, 1024, 1);
    const YAML::Node limits = node["limits"];
    if (!limits) { throw Problem{"limits is missing"}; }
    only(limits, "limits", {"batch_sequences_max", "batch_tokens_max", "kv_tokens"});
    pool.batch_sequences_max = count(limits, "batch_sequences_max", 1, 65'536);
    pool.batch_tokens_max = count(limits, "batch_tokens_max", 1, 1 << 20);
    pool.kv_tokens = number(limits, "kv_tokens", 1, 1e12);
    if (const YAML::Node times = node["times"]) {
        pool.times = read_times(times);
        pool.has_times = true;
    }
    return pool;
}

PlanFile read_file(const YAML::Node& root) {
    only(root, "the plan", {"version", "model", "pools", "slo_classes", "hand_off", "assumed", "predicted"});
    PlanFile plan;
    count(root, "version", 1, 1e6);
    plan.model = text(root, "model");
    const YAML::Node pools = root["pools"];
    if (!pools || !pools.IsSequence() || pools.size() == 0 || pools.size() > kPoolsMax) {
        throw Problem{"pools has to be a list of at least one"};
    }
    for (const auto& pool : pools) {
        plan.pools.push_back(read_pool(pool));
    }
    if (const YAML::Node classes = root["slo_classes"]; classes && classes.IsMap() && classes["default"]) {
        const YAML::Node targets = classes["default"];
        only(targets, "slo_classes.default", {"ttft_ms", "tpot_ms", "attainment"});
        plan.ttft_s = number(targets, "ttft_ms", 0, 1e9, 0) / 1e3;
        plan.tpot_s = number(targets, "tpot_ms", 0, 1e9, 0) / 1e3;
        plan.attainment = number(targets, "attainment", 0, 1, 0.9);
    }
    if (const YAML::Node hand_off = root["hand_off"]) {
        only(hand_off, "hand_off", {"kv_bytes_per_token", "bytes_per_s", "latency_s", "layers"});
        plan.kv_bytes_per_token = number(hand_off, "kv_bytes_per_token", 0, 1e9);
        plan.link_bytes_per_second = number(hand_off, "bytes_per_s", 0, 1e15, 0);
        plan.link_latency_s = number(hand_off, "latency_s", 0, 100, 0);
        plan.layers = count(hand_off, "layers", 1, 10'000, 1);
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
        if (root["version"].IsScalar() && root["version"].Scalar() != "1") {
            return base::fail(base::ErrorCode::unimplemented,
                              name + ": version " + root["version"].Scalar() + " is not known here; 1 is");
        }
        return read_file(root);
    } catch (const Problem& problem) { return invalid(problem.text); } catch (const YAML::Exception& error) {
        return invalid(error.what());
    }
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
        out += "large_from: " + short_number(times.fitted->large_from) + "}\n";
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
