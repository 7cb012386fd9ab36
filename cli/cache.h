#pragma once

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace cli {

/// `sluice cache stats|ls|examples|export|purge`: the cache of a running gateway, over its routes /cache.
struct CacheCommand {
    std::string url = "http://127.0.0.1:8000";
    std::string api_key;  // of scope admin, where the gateway has keys
    bool json = false;    // as the gateway says it
    std::string tenant;   // empty, here and below: any
    std::string tag;
    std::string revision;
    std::uint64_t limit = 100;
    // purge
    std::string entry;
    std::string older_than;  // 90s, 10m, 2h
    std::string near_text;
    double near_similarity = 0.9;
    bool all = false;
    bool dry_run = false;
    bool wrong = false;
    // examples
    bool text = false;
};
void add_cache_stats(CLI::App& app, CacheCommand& command);
void add_cache_ls(CLI::App& app, CacheCommand& command);
void add_cache_examples(CLI::App& app, CacheCommand& command);
void add_cache_export(CLI::App& app, CacheCommand& command);
void add_cache_purge(CLI::App& app, CacheCommand& command);
int cache_stats_main(const CacheCommand& command);
int cache_ls_main(const CacheCommand& command);
int cache_examples_main(const CacheCommand& command);
int cache_export_main(const CacheCommand& command);
int cache_purge_main(const CacheCommand& command);

/// The body of POST /cache/purge. Error: invalid_argument, where nothing is said of the answers, or a time is none.
base::Result<std::string> purge_body(const CacheCommand& command);
/// For people: what GET /cache, /cache/entries and /cache/examples say. Pure.
std::string cache_stats_text(const boost::json::object& stats);
std::string cache_entries_text(const boost::json::object& entries);
std::string cache_examples_text(const boost::json::object& examples);

}  // namespace cli
