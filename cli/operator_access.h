#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/process.h"
#include "proto/scheduler.grpc.pb.h"

namespace cli {

/// By which people, and not processes of a cluster, reach its schedulers: `sluice drain`, `sluice fleet`.
struct OperatorFlags {
    std::vector<std::string> schedulers = {kSchedulerDefault};
    bool trusted_network = false;
    bool always_tls = false;
    std::string key_file;                // of the cluster; empty: $SLUICE_CLUSTER_KEY
    base::CertificateFiles certificate;  // of role operator, where processes have certificates
};
void add_operator_flags(CLI::App& app, OperatorFlags& flags);
/// What a process that acts for people shows. Errors: invalid_argument (no key; a certificate of another role),
/// those of read_key_file() and ClusterSettings::use.
base::Result<ClusterSettings> operator_cluster(const OperatorFlags& flags);

/// "00000000000000ff": a worker's id, or the number of its life, as logs write them. Error: invalid_argument; `what`
/// says what it was to be.
base::Result<std::uint64_t> parse_worker_number(const std::string& text, const std::string& what);

inline constexpr const char* kWorkerHelp =
    "the worker: its id, as `sluice drain --list` and the scheduler's log write it, or where it listens, HOST:PORT or "
    "HOST alone";
/// The worker that people mean: its id, or where it listens, HOST:PORT or HOST alone where one process listens there.
/// Pure. Errors: not_found, failed_precondition (several at that host); both list who is there.
base::Result<proto::WorkerState> choose_worker(const proto::DescribeReply& workers, const std::string& wanted);
/// A line for each worker, with its id, by model and address.
std::string list_of_workers(const proto::DescribeReply& workers);
/// The same as an array of JSON.
std::string json_of_workers(const proto::DescribeReply& workers);

/// What people ask a scheduler for. Of several addresses all but one stand by or are gone: each is asked for a second,
/// in turns, beginning with the one that answered last, until one leads. One thread at a time.
class SchedulerAccess {
public:
    SchedulerAccess(const std::vector<std::string>& addresses, const proto::ClusterKey& key);

    /// Every model and its workers. Errors: those of the call, unavailable and deadline_exceeded after `patience`.
    base::Result<proto::DescribeReply> describe(std::chrono::milliseconds patience);
    /// The worker takes nothing new; as it stands. `incarnation` 0: whatever life is there. Errors: the same;
    /// not_found, failed_precondition (another life), permission_denied (this process may not).
    base::Result<proto::WorkerState> drain(std::uint64_t worker, std::uint64_t incarnation,
                                           std::chrono::milliseconds patience);

private:
    template <class Ask>
    base::Result<void> ask(std::chrono::milliseconds patience, Ask ask_one);

    std::vector<std::unique_ptr<proto::Scheduler::Stub>> schedulers_;
    std::size_t answered_ = 0;
};

}  // namespace cli
