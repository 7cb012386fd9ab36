#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "cli/model/stop.h"

namespace CLI {
class App;
}

namespace cli::model {

/// `sluice model pull SOURCE`.
struct PullCommand {
    std::string source{};
    std::string name{};
    std::string sha256{};
};
/// `sluice model show NAME|PATH` and `sluice model remove NAME`.
struct NameCommand {
    std::string name{};
};

/// `sluice model cache prune`.
struct PruneCommand {
    std::string packed_dir{};      // empty: where engines put them where nothing else is set
    std::uint64_t bytes_kept = 0;  // the most recently used ones may take so much
};

/// Add the flags of each subcommand; they write into what is given, which must outlive the parsing.
void add_pull(CLI::App& app, PullCommand& command);
void add_show(CLI::App& app, NameCommand& command);
void add_remove(CLI::App& app, NameCommand& command);
void add_cache_list(CLI::App& app, std::string& packed_dir);
void add_cache_prune(CLI::App& app, PruneCommand& command);

/// Each prints its result to standard output, progress to standard error. Errors are those of pull(), Store, Session.
base::Result<void> run_pull(const PullCommand& command, const StopAsked& stop_asked);
base::Result<void> run_list(const StopAsked& stop_asked);
base::Result<void> run_show(const NameCommand& command, const StopAsked& stop_asked);
base::Result<void> run_remove(const NameCommand& command, const StopAsked& stop_asked);
base::Result<void> run_cache_list(const std::string& packed_dir);
base::Result<void> run_cache_prune(const PruneCommand& command);

}  // namespace cli::model
