#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/serve.h"

namespace cli {

/// `sluice run`: a prompt, or a chat, in the terminal. Starts all roles in this process and talks to its own gateway,
/// so that it shows what a client would see.
struct RunOptions {
    ServeOptions serve;
    std::string prompt;          // continue this text and end; empty: chat, one message a line
    std::string system_message;  // chat only
    std::uint32_t max_tokens = 256;
    double temperature = 0;
    std::uint64_t seed = 0;
};
void add_run(CLI::App& app, RunOptions& options);
int run_main(RunOptions options);

}  // namespace cli
