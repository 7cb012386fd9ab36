#include "cli/operator_access.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <string_view>
#include <thread>

#include "base/log.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/roles.h"
#include "proto/status.h"

namespace cli {
namespace {

using std::chrono::system_clock;

constexpr std::chrono::seconds kTurn{1};          // of one scheduler, where there are several
constexpr std::chrono::milliseconds kPause{200};  // between two rounds: who stands by answers at once

base::Result<base::HashKey> cluster_key(const OperatorFlags& flags) {
    if (!flags.key_file.empty()) { return read_key_file(flags.key_file); }
    const auto key = key_of_environment();
    if (!key) { return base::pass_on(key); }
    if (!*key) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "the scheduler listens to nobody without the cluster's key: --cluster-key-file FILE, or "
                          "SLUICE_CLUSTER_KEY");
    }
    return **key;
}

std::string_view role_of(const proto::WorkerState& worker) {
    const auto role = proto::role_of(worker.role());
    return role ? proto::role_name(*role) : std::string_view("?");
}

std::uint32_t requests_of(const proto::WorkerState& worker) {
    return worker.load().requests_running() + worker.load().requests_waiting();
}

/// By model and address.
template <class Visit>
void for_each_worker(const proto::DescribeReply& workers, Visit visit) {
    for (const proto::ModelState& model : workers.models()) {
        std::vector<const proto::WorkerState*> all;
        for (const proto::WorkerState& worker : model.workers()) {
            all.push_back(&worker);
        }
        std::sort(all.begin(), all.end(), [](const auto* a, const auto* b) {
            return a->endpoint().control_address() < b->endpoint().control_address();
        });
        for (const proto::WorkerState* worker : all) {
            visit(model.model(), *worker);
        }
    }
}

}  // namespace

void add_operator_flags(CLI::App& app, OperatorFlags& flags) {
    add_scheduler_flag(app, flags.schedulers);
    app.add_option("--cluster-key-file", flags.key_file, "file with the cluster's key; default: SLUICE_CLUSTER_KEY");
    app.add_flag("--trusted-network", flags.trusted_network,
                 "as cluster.trusted_network: there is no TLS to a scheduler beyond loopback");
    app.add_flag("--always-tls", flags.always_tls, "as cluster.always_tls: there is TLS to a scheduler of this host");
    auto* const certificate = app.add_option("--certificate-file", flags.certificate.certificate,
                                             "of role operator, where processes have certificates (PEM)");
    auto* const key = app.add_option("--certificate-key-file", flags.certificate.key, "its key");
    auto* const authority = app.add_option("--authority-file", flags.certificate.authority, "who signs certificates");
    certificate->needs(key)->needs(authority);
}

base::Result<ClusterSettings> operator_cluster(const OperatorFlags& flags) {
    const auto key = cluster_key(flags);
    if (!key) { return base::pass_on(key); }
    ClusterSettings cluster;
    cluster.key = *key;
    cluster.trusted_network = flags.trusted_network;
    cluster.always_tls = flags.always_tls;
    if (!flags.certificate.certificate.empty()) {
        auto used = cluster.use(flags.certificate);
        if (used) { used = cluster.check_role(base::PeerRole::operate); }
        if (!used) { return base::pass_on(used); }
    }
    return cluster;
}

base::Result<std::uint64_t> parse_worker_number(const std::string& text, const std::string& what) {
    std::uint64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, number, 16);
    if (error != std::errc{} || at != end || number == 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          what + " is hexadecimal digits, as the scheduler's log writes them, got '" + text + "'");
    }
    return number;
}

std::string list_of_workers(const proto::DescribeReply& workers) {
    std::string list;
    for_each_worker(workers, [&list](const std::string& model, const proto::WorkerState& worker) {
        list += fmt::format("{:016x}  {:<8}  {:<8}  {:>4} requests  {}  {}\n", worker.endpoint().worker_id(),
                            role_of(worker), base::log_safe(worker.state()), requests_of(worker),
                            base::log_safe(worker.endpoint().control_address()), base::log_safe(model));
    });
    return list;
}

std::string json_of_workers(const proto::DescribeReply& workers) {
    boost::json::array list;
    for_each_worker(workers, [&list](const std::string& model, const proto::WorkerState& worker) {
        list.push_back(boost::json::object{{"worker", fmt::format("{:016x}", worker.endpoint().worker_id())},
                                           {"incarnation", fmt::format("{:016x}", worker.endpoint().incarnation())},
                                           {"role", role_of(worker)},
                                           {"state", worker.state()},
                                           {"requests", requests_of(worker)},
                                           {"address", worker.endpoint().control_address()},
                                           {"model", model}});
    });
    return boost::json::serialize(list);
}

base::Result<proto::WorkerState> choose_worker(const proto::DescribeReply& workers, const std::string& wanted) {
    const auto id = parse_worker_number(wanted, "--worker");
    std::vector<const proto::WorkerState*> found;
    for (const proto::ModelState& model : workers.models()) {
        for (const proto::WorkerState& worker : model.workers()) {
            const std::string& address = worker.endpoint().control_address();
            const bool is_meant = id ? worker.endpoint().worker_id() == *id
                                     : address == wanted || address.substr(0, address.rfind(':')) == wanted;
            if (is_meant) { found.push_back(&worker); }
        }
    }
    if (found.size() == 1) { return *found.front(); }
    const std::string list = list_of_workers(workers);
    const std::string there = list.empty() ? "; there is none" : "; there are\n" + list;
    if (found.empty()) {
        return base::fail(base::ErrorCode::not_found, "there is no worker " + base::log_safe(wanted) + there);
    }
    return base::fail(base::ErrorCode::failed_precondition,
                      fmt::format("{} workers are at {}: name one by its id or by HOST:PORT{}", found.size(),
                                  base::log_safe(wanted), there));
}

SchedulerAccess::SchedulerAccess(const std::vector<std::string>& addresses, const proto::ClusterKey& key) {
    for (const std::string& address : addresses) {
        schedulers_.push_back(proto::Scheduler::NewStub(proto::make_channel({.address = address, .key = key})));
    }
}

template <class Ask>
base::Result<void> SchedulerAccess::ask(std::chrono::milliseconds patience, Ask ask_one) {
    const auto deadline = system_clock::now() + patience;
    const bool are_several = schedulers_.size() > 1;
    while (true) {
        const std::size_t first = answered_;
        for (std::size_t turn = 0; turn < schedulers_.size(); ++turn) {
            const std::size_t at = (first + turn) % schedulers_.size();
            const auto now = system_clock::now();
            grpc::ClientContext context;
            context.set_deadline(are_several ? std::min(deadline, now + kTurn) : deadline);
            context.set_wait_for_ready(true);  // a scheduler that is busy, or starts, may take a connection only later
            const grpc::Status status = ask_one(*schedulers_[at], context);
            if (status.ok()) {
                answered_ = at;
                return {};
            }
            const bool is_another_asked = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                                          status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
            if (!are_several || !is_another_asked || now + kTurn >= deadline) {
                return tl::unexpected(proto::error_of(status));
            }
        }
        std::this_thread::sleep_for(kPause);
    }
}

base::Result<proto::DescribeReply> SchedulerAccess::describe(std::chrono::milliseconds patience) {
    proto::DescribeRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    proto::DescribeReply reply;
    const auto asked = ask(patience, [&](proto::Scheduler::Stub& scheduler, grpc::ClientContext& context) {
        return scheduler.Describe(&context, request, &reply);
    });
    if (!asked) { return base::pass_on(asked); }
    return reply;
}

base::Result<proto::WorkerState> SchedulerAccess::drain(std::uint64_t worker, std::uint64_t incarnation,
                                                        std::chrono::milliseconds patience) {
    proto::DrainRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    request.set_worker_id(worker);
    request.set_incarnation(incarnation);
    proto::DrainReply reply;
    const auto asked = ask(patience, [&](proto::Scheduler::Stub& scheduler, grpc::ClientContext& context) {
        return scheduler.Drain(&context, request, &reply);
    });
    if (!asked) { return base::pass_on(asked); }
    return reply.worker();
}

}  // namespace cli
