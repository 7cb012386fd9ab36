#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench transfer`: what the command line says.
struct TransferBenchOptions {
    std::vector<std::string> transports{"ucx", "ucx-tcp", "tls"};
    std::size_t message_bytes = std::size_t{2} << 20;  // payload of one message
    std::uint32_t in_flight = 4;                       // messages that are on their way at once
    std::size_t block_bytes = 16 * 23040;              // one block of KV: 16 tokens of SmolLM2-135M in BF16
    double seconds = 1;                                // of each measurement
    std::string out_path;                              // JSON; "-": standard output instead of the table
};

/// One transport, from one end of it to another in this process.
struct TransferFigure {
    std::string transport;
    double gigabytes_per_second = 0;      // payload that has arrived
    double cpu_seconds_per_gigabyte = 0;  // of both ends together
    double round_trip_us = 0;             // median, of a message without a payload and its answer
    double block_us = 0;  // half the median trip of a block there and one back, between the transports' own threads
};

struct TransferReport {
    std::vector<TransferFigure> figures;
    // One thread encrypts records of 16 KiB: what TLS cannot exceed on one.
    double aes_128_gcm_gigabytes_per_second = 0;
    double aes_128_gcm_cpu_seconds_per_gigabyte = 0;
};

/// Error: invalid_argument (no such transport), unavailable (it cannot be had here).
base::Result<TransferReport> measure_transfer(const TransferBenchOptions& options);

/// Measures and prints. Exit status: 0, or 1.
int bench_transfer_main(const TransferBenchOptions& options);

/// Adds the flags of `bench transfer` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_transfer(CLI::App& app, TransferBenchOptions& options);

}  // namespace bench
