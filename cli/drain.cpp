#include "cli/drain.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <thread>

#include "base/result.h"
#include "cli/process.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/status.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};
constexpr std::chrono::seconds kTurn{1};          // of one scheduler, where there are several
constexpr std::chrono::milliseconds kPause{200};  // between two rounds: who stands by answers at once

base::Result<std::uint64_t> parse_worker_id(const std::string& text) {
    std::uint64_t id = 0;
    const char* const end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, id, 16);
    if (error != std::errc{} || at != end || id == 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "--worker takes the hexadecimal id of the scheduler's log, got '" + text + "'");
    }
    return id;
}

base::Result<base::HashKey> cluster_key(const DrainCommand& command) {
    if (!command.key_file.empty()) { return read_key_file(command.key_file); }
    const auto key = key_of_environment();
    if (!key) { return base::pass_on(key); }
    if (!*key) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "the scheduler listens to nobody without the cluster's key: --cluster-key-file FILE, or "
                          "SLUICE_CLUSTER_KEY");
    }
    return **key;
}

base::Result<proto::WorkerState> drain(const DrainCommand& command) {
    const auto id = parse_worker_id(command.worker);
    if (!id) { return base::pass_on(id); }
    const auto key = cluster_key(command);
    if (!key) { return base::pass_on(key); }
    ClusterSettings cluster;
    cluster.key = *key;
    cluster.trusted_network = command.trusted_network;
    cluster.always_tls = command.always_tls;
    if (!command.certificate.certificate.empty()) {
        auto used = cluster.use(command.certificate);
        if (used) { used = cluster.check_role(base::PeerRole::operate); }
        if (!used) { return base::pass_on(used); }
    }
    proto::DrainRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    request.set_worker_id(*id);
    const auto ask = [&](const std::string& address, std::chrono::system_clock::time_point until,
                         proto::DrainReply& reply) {
        const auto stub =
            proto::Scheduler::NewStub(proto::make_channel({.address = address, .key = cluster.control()}));
        grpc::ClientContext context;
        context.set_deadline(until);
        context.set_wait_for_ready(true);  // a scheduler that is busy, or starts, may take a connection only later
        return stub->Drain(&context, request, &reply);
    };
    // Of several, all but one stand by or are gone: each is asked for a while, in turns, until one leads.
    const auto deadline = std::chrono::system_clock::now() + kTimeout;
    const bool are_several = command.schedulers.size() > 1;
    while (true) {
        for (const std::string& address : command.schedulers) {
            const auto now = std::chrono::system_clock::now();
            proto::DrainReply reply;
            const grpc::Status status = ask(address, are_several ? std::min(deadline, now + kTurn) : deadline, reply);
            if (status.ok()) { return reply.worker(); }
            const bool is_another_asked = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                                          status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
            if (!are_several || !is_another_asked || now + kTurn >= deadline) {
                return tl::unexpected(proto::error_of(status));
            }
        }
        std::this_thread::sleep_for(kPause);
    }
}

}  // namespace

void add_drain(CLI::App& app, DrainCommand& command) {
    app.add_option("--worker", command.worker, "id of the worker, as the scheduler's log writes it")->required();
    add_scheduler_flag(app, command.schedulers);
    app.add_option("--cluster-key-file", command.key_file, "file with the cluster's key; default: SLUICE_CLUSTER_KEY");
    app.add_flag("--trusted-network", command.trusted_network,
                 "as cluster.trusted_network: there is no TLS to a scheduler beyond loopback");
    app.add_flag("--always-tls", command.always_tls, "as cluster.always_tls: there is TLS to a scheduler of this host");
    auto* const certificate = app.add_option("--certificate-file", command.certificate.certificate,
                                             "of role operator, where processes have certificates (PEM)");
    auto* const key = app.add_option("--certificate-key-file", command.certificate.key, "its key");
    auto* const authority = app.add_option("--authority-file", command.certificate.authority, "who signs certificates");
    certificate->needs(key)->needs(authority);
}

int drain_main(const DrainCommand& command) {
    const auto worker = drain(command);
    if (!worker) { return report(worker.error()); }
    std::printf("worker %s at %s takes no new requests; it had %u when it reported last\n", command.worker.c_str(),
                worker->endpoint().control_address().c_str(),
                worker->load().requests_running() + worker->load().requests_waiting());
    return 0;
}

}  // namespace cli
