#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/config.h"

namespace gateway {

/// Section `batch` of the configuration.
struct BatchOptions {
    std::string file;                      // SQLite: files of clients, batches and their answers; empty: no batches
    std::uint64_t bytes_max = 4ull << 30;  // of all files and answers
    std::size_t files_max = 10'000;        // of all tenants
    std::size_t unfinished_max = 100;      // batches of one tenant
    std::size_t requests_max = 50'000;     // of one batch: OpenAI's bound
    std::size_t requests_at_once = 8;      // at the workers, of all batches
    std::string slo_class;                 // of their requests; empty: the default class, without its targets

    bool is_on() const { return !file.empty(); }
    /// Bad values are reported by Config::finish().
    static BatchOptions read(base::Config& config);
};

}  // namespace gateway
