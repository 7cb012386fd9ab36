#include "sim/faults.h"

#include <yaml-cpp/yaml.h>

#include <array>
#include <cmath>
#include <optional>
#include <utility>

namespace sim {
namespace {

constexpr std::size_t kFaultsMax = 10'000;
constexpr std::array kNames{
    std::pair{Fault::Kind::death, std::string_view("death")},
    std::pair{Fault::Kind::slow, std::string_view("slow")},
    std::pair{Fault::Kind::partition, std::string_view("partition")},
    std::pair{Fault::Kind::slow_link, std::string_view("slow_link")},
    std::pair{Fault::Kind::scheduler_death, std::string_view("scheduler_death")},
    std::pair{Fault::Kind::scheduler_pause, std::string_view("scheduler_pause")},
};

std::optional<Fault::Kind> kind_of(std::string_view name) {
    for (const auto& [kind, known] : kNames) {
        if (known == name) { return kind; }
    }
    return std::nullopt;
}

/// The reason why this is no fault; empty: it is one.
std::string read_fault(const YAML::Node& node, Fault& fault) {
    if (!node.IsMap()) { return "is no map with time, kind, target"; }
    const auto number = [](const YAML::Node& value, double& into) {
        if (!value.IsScalar() || !YAML::convert<double>::decode(value, into)) { return false; }
        return std::isfinite(into) && into >= 0 && into <= 1e9;
    };
    for (const auto& entry : node) {
        const std::string key = entry.first.IsScalar() ? entry.first.Scalar() : "";
        const YAML::Node& value = entry.second;
        if (key == "time" || key == "duration" || key == "factor") {
            double& into = key == "time" ? fault.at_s : key == "duration" ? fault.duration_s : fault.factor;
            if (!number(value, into)) { return key + " has to be a number of at least 0"; }
        } else if (key == "kind") {
            const auto kind = kind_of(value.IsScalar() ? value.Scalar() : "");
            if (!kind) {
                return "kind has to be death, slow, partition, slow_link, scheduler_death or scheduler_pause";
            }
            fault.kind = *kind;
        } else if (key == "target" && value.IsScalar()) {
            fault.target = value.Scalar();
        } else {
            return "\"" + key + "\" is not known; there are time, kind, target, duration, factor";
        }
    }
    if (!node["time"] || !node["kind"]) { return "needs time and kind"; }
    if (fault.target.empty() && !is_of_scheduler(fault.kind)) { return "needs a target, as decode-0, or any"; }
    if (fault.factor < 1) { return "factor has to be at least 1"; }
    return "";
}

}  // namespace

std::string_view fault_name(Fault::Kind kind) {
    for (const auto& [known, name] : kNames) {
        if (known == kind) { return name; }
    }
    return "";
}

base::Result<std::vector<Fault>> read_faults(std::string_view yaml, const std::string& name) {
    const auto invalid = [&name](const std::string& why) {
        return base::fail(base::ErrorCode::invalid_argument, name + ": " + why);
    };
    try {
        const YAML::Node root = YAML::Load(std::string(yaml));
        if (!root.IsSequence()) { return invalid("has to be a list of faults"); }
        if (root.size() > kFaultsMax) { return invalid("more than " + std::to_string(kFaultsMax) + " faults"); }
        std::vector<Fault> faults;
        for (std::size_t i = 0; i < root.size(); ++i) {
            Fault fault;
            if (const std::string why = read_fault(root[i], fault); !why.empty()) {
                return invalid("fault " + std::to_string(i + 1) + " " + why);
            }
            faults.push_back(std::move(fault));
        }
        return faults;
    } catch (const YAML::Exception& error) { return invalid(error.what()); }
}

}  // namespace sim
