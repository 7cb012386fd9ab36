#include "cli/turn.h"

#include <cstdio>

#include "cli/process.h"
#include "proto/channel.h"
#include "proto/header.h"
#include "proto/status.h"
#include "proto/turn.grpc.pb.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};

base::Result<TurnState> turn(const TurnCommand& command, proto::Role role) {
    const auto cluster = operator_cluster(command.access);
    if (!cluster) { return base::pass_on(cluster); }
    const proto::ClusterKey key = cluster->control();
    const auto described = SchedulerAccess(command.access.schedulers, key).describe(kTimeout);
    if (!described) { return base::pass_on(described); }
    const auto chosen = choose_worker(*described, command.worker);
    if (!chosen) { return base::pass_on(chosen); }
    return turn_worker(chosen->endpoint(), role, key, kTimeout);
}

}  // namespace

base::Result<TurnState> turn_worker(const proto::WorkerEndpoint& endpoint, proto::Role role,
                                    const proto::ClusterKey& key, std::chrono::milliseconds patience) {
    const auto stub = proto::Roles::NewStub(
        proto::make_channel({.address = endpoint.control_address(), .key = key, .callee = base::PeerKind::worker}));
    proto::TurnRequest request;
    *request.mutable_header() = proto::make_header("", 0);
    request.set_incarnation(endpoint.incarnation());
    request.set_role(proto::role_message(role));
    proto::TurnReply reply;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + patience);
    context.set_wait_for_ready(true);
    if (const grpc::Status status = stub->Turn(&context, request, &reply); !status.ok()) {
        base::Error error = proto::error_of(status);
        if (error.code == base::ErrorCode::unimplemented) {
            error.message = "the worker is of a version that keeps its role";
        }
        return tl::unexpected(std::move(error));
    }
    TurnState state;
    state.role = proto::role_of(reply.role()).value_or(role);
    state.is_turning = reply.turns_to() != proto::WORKER_ROLE_UNSPECIFIED;
    return state;
}

void add_turn(CLI::App& app, TurnCommand& command) {
    app.add_option("WORKER,--worker", command.worker, kWorkerHelp)->required();
    app.add_option("--to", command.role, "prefill, decode or mixed")
        ->required()
        ->check(CLI::IsMember({"prefill", "decode", "mixed"}));
    add_operator_flags(app, command.access);
}

int turn_main(const TurnCommand& command) {
    const proto::Role role = command.role == "prefill"  ? proto::Role::prefill
                             : command.role == "decode" ? proto::Role::decode
                                                        : proto::Role::mixed;
    const auto state = turn(command, role);
    if (!state) { return report(state.error()); }
    std::printf(state->is_turning ? "worker %s, %s, gets nothing new; when what it has has ended it is of role %s\n"
                                  : "worker %s, %s, is of role %s\n",
                command.worker.c_str(), std::string(proto::role_name(state->role)).c_str(), command.role.c_str());
    return 0;
}

}  // namespace cli
