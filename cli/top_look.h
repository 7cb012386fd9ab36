#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cli/top_view.h"

namespace cli {

/// `--url` and `--api-key`: whose /metrics are looked at.
void add_look_flags(CLI::App& app, std::vector<std::string>& urls, std::string& api_key);

/// The addresses that `urls` name: "http://host:9100-9104" is five. Error: invalid_argument (no address, more than
/// 256).
base::Result<std::vector<std::string>> expand_urls(const std::vector<std::string>& urls);

/// What each of them tells now, in their order; those that do not answer are waited for, but not one after the other.
/// Blocks: some seconds at most for every sixteen that are silent.
TopMoment look_at(const std::vector<std::string>& urls, const std::string& api_key, const base::Clock& clock);

/// Whether anybody told anything.
bool is_reached(const TopMoment& moment);

}  // namespace cli
