#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace cli {

/// A script by which bash completes the subcommands and flags of `app`, at every depth; zsh takes the same through its
/// bashcompinit, which `for_zsh` loads. Values (files, mostly) are left to the shell.
std::string completion_script(const CLI::App& app, bool for_zsh);

}  // namespace cli
