#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace cli {

/// `sluice keys`: the file of a gateway's API keys. A gateway reads it again when it has changed.
struct KeysCommand {
    std::string file;
    std::string name;
    std::string tenant;
    std::vector<std::string> models;
    std::vector<std::string> scopes;
    std::vector<std::string> slo_classes;
    std::uint64_t requests_per_minute = 0;
    std::uint64_t tokens_per_minute = 0;
    std::uint32_t concurrent = 0;
    std::string expires;
    bool reads_key = false;  // from standard input, instead of making one
    bool json = false;
    std::string id;
};
void add_keys_add(CLI::App& app, KeysCommand& command);
void add_keys_list(CLI::App& app, KeysCommand& command);
void add_keys_revoke(CLI::App& app, KeysCommand& command);
int keys_add_main(const KeysCommand& command);
int keys_list_main(const KeysCommand& command);
int keys_revoke_main(const KeysCommand& command);

}  // namespace cli
