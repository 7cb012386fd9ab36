#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace cli {

enum class Shell { bash, zsh, fish };

/// A script by which `shell` completes the subcommands and flags of `app`, at every depth; zsh takes bash's through its
/// bashcompinit. Fish shows what each of them is for. Values (files, mostly) are left to the shell.
std::string completion_script(const CLI::App& app, Shell shell);

}  // namespace cli
