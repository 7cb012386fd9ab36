#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace cli {

/// One line of Prometheus' text format.
struct Sample {
    std::string name;
    std::map<std::string, std::string> labels;
    double value = 0;

    /// Of that label; empty where there is none.
    std::string_view label(const std::string& key) const {
        const auto at = labels.find(key);
        return at == labels.end() ? std::string_view() : std::string_view(at->second);
    }
};

/// The samples of a /metrics, comments and time stamps left out. Pure. Error: data_loss, with the number of the line
/// that is none of that format; also beyond 200,000 samples.
base::Result<std::vector<Sample>> parse_metrics(std::string_view text);

}  // namespace cli
