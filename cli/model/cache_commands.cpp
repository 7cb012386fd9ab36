// sluice model cache list|prune: the packed weights that engines leave behind.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/model/commands.h"
#include "cli/model/manifest.h"
#include "engine/model/packed_cache.h"
#include "engine/model/packed_file.h"

namespace cli::model {
namespace {

using base::Result;

constexpr const char* kDirHelp = "folder of the packed weights (engine.packed_dir); default: the usual one";

std::string row(const engine::PackedEntry& entry, const char* state) {
    return fmt::format("  {}  {:>9}  {}  {}\n", format_utc(entry.used_unix_s), format_bytes(entry.bytes),
                       entry.path.filename().string(), state);
}

}  // namespace

void add_cache_list(CLI::App& app, std::string& packed_dir) {
    app.add_option("--packed-dir", packed_dir, kDirHelp);
}

void add_cache_prune(CLI::App& app, PruneCommand& command) {
    app.add_option("--packed-dir", command.packed_dir, kDirHelp);
    app.add_option("--keep-bytes", command.bytes_kept,
                   "keep the most recently used ones up to so many bytes; what runs is kept in any case")
        ->capture_default_str();
}

Result<void> run_cache_list(const std::string& packed_dir) {
    const auto dir = engine::prepare_packed_dir(packed_dir);
    if (!dir) { return base::pass_on(dir); }
    const auto entries = engine::list_packed(*dir);
    if (!entries) { return base::pass_on(entries); }
    std::uint64_t bytes = 0;
    std::string text;
    for (const engine::PackedEntry& entry : *entries) {
        bytes += entry.bytes;
        text += row(entry, entry.is_in_use ? "in use" : "");
    }
    std::printf("%s: %zu packed files, %s, least recently used first:\n%s", dir->c_str(), entries->size(),
                format_bytes(bytes).c_str(), text.c_str());
    return {};
}

Result<void> run_cache_prune(const PruneCommand& command) {
    const auto dir = engine::prepare_packed_dir(command.packed_dir);
    if (!dir) { return base::pass_on(dir); }
    const auto pruned = engine::prune_packed(*dir, command.bytes_kept);
    if (!pruned) { return base::pass_on(pruned); }
    std::uint64_t bytes = 0;
    for (const engine::PackedEntry& entry : pruned->removed) {
        bytes += entry.bytes;
    }
    std::printf("%s: %zu packed files removed, %s; %s are left\n", dir->c_str(), pruned->removed.size(),
                format_bytes(bytes).c_str(), format_bytes(pruned->bytes_left).c_str());
    return {};
}

}  // namespace cli::model
