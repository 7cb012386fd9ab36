#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace cli {

/// The manual page sluice(1) in roff's man macros: every subcommand of `app`, at every depth, with its arguments and
/// flags, as --help tells them.
std::string man_page(const CLI::App& app, const std::string& version);

}  // namespace cli
