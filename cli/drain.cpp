#include "cli/drain.h"

#include <charconv>
#include <chrono>
#include <cstdio>

#include "base/result.h"
#include "cli/process.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/scheduler.grpc.pb.h"
#include "proto/status.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};

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
    const ClusterSettings cluster{
        .key = *key, .trusted_network = command.trusted_network, .always_tls = command.always_tls};
    const auto stub =
        proto::Scheduler::NewStub(proto::make_channel({.address = command.scheduler, .key = cluster.control()}));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kTimeout);
    context.set_wait_for_ready(true);  // a scheduler that is busy, or starts, may take a connection only later
    proto::DrainRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    request.set_worker_id(*id);
    proto::DrainReply reply;
    if (const grpc::Status status = stub->Drain(&context, request, &reply); !status.ok()) {
        return tl::unexpected(proto::error_of(status));
    }
    return reply.worker();
}

}  // namespace

void add_drain(CLI::App& app, DrainCommand& command) {
    app.add_option("--worker", command.worker, "id of the worker, as the scheduler's log writes it")->required();
    app.add_option("--scheduler", command.scheduler, "HOST:PORT of the scheduler")->capture_default_str();
    app.add_option("--cluster-key-file", command.key_file, "file with the cluster's key; default: SLUICE_CLUSTER_KEY");
    app.add_flag("--trusted-network", command.trusted_network,
                 "as cluster.trusted_network: there is no TLS to a scheduler beyond loopback");
    app.add_flag("--always-tls", command.always_tls, "as cluster.always_tls: there is TLS to a scheduler of this host");
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
