#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace cli {

/// `sluice certs make`: an authority for a first cluster, and a certificate for each role.
struct CertsCommand {
    std::string folder;              // that gets them
    std::string authority;           // folder of one that is there; empty: a new one is made
    std::string cluster = "sluice";  // as in sluice://CLUSTER/ROLE/NAME
    std::vector<std::string> roles;  // ROLE or ROLE/NAME; empty: one of each
    std::vector<std::string> names;  // further alternative names, of all: DNS:host, IP:address
    std::uint32_t days = 90;
    std::uint32_t authority_days = 3650;
};
void add_certs_make(CLI::App& app, CertsCommand& command);
int certs_make_main(const CertsCommand& command);

}  // namespace cli
