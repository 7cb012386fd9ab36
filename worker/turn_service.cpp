#include "worker/turn_service.h"

#include "proto/header.h"
#include "proto/roles.h"
#include "proto/status.h"

namespace worker {

void TurnService::attach(base::Incarnation incarnation, RoleTurn& turn) {
    const std::scoped_lock lock(mutex_);
    incarnation_ = incarnation;
    turn_ = &turn;
}

grpc::ServerUnaryReactor* TurnService::Turn(grpc::CallbackServerContext* context,
                                            const sluice::proto::TurnRequest* request,
                                            sluice::proto::TurnReply* reply) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(answer(*context, *request, *reply));
    return reactor;
}

grpc::Status TurnService::answer(const grpc::CallbackServerContext& context, const sluice::proto::TurnRequest& request,
                                 sluice::proto::TurnReply& reply) {
    // Who may take a worker out may turn it.
    if (grpc::Status known = key_.check(context, base::PeerCall::drain); !known.ok()) { return known; }
    if (const auto fine = proto::check_header(request.header()); !fine) { return proto::status_of(fine.error()); }
    const std::scoped_lock lock(mutex_);
    if (turn_ == nullptr) { return {grpc::StatusCode::UNAVAILABLE, "this worker begins"}; }
    if (request.incarnation() != base::raw(incarnation_)) {
        return {grpc::StatusCode::FAILED_PRECONDITION, "this is another life of the worker than the one that is meant"};
    }
    const auto role = proto::role_of(request.role());
    if (!role) { return {grpc::StatusCode::INVALID_ARGUMENT, "a turn needs a role: prefill, decode or mixed"}; }
    const auto state = turn_->turn(*role);
    if (!state) { return proto::status_of(state.error()); }
    *reply.mutable_header() = proto::make_header(request.header().model(), 0);
    reply.set_role(proto::role_message(state->role));
    if (state->turns_to) { reply.set_turns_to(proto::role_message(*state->turns_to)); }
    return grpc::Status::OK;
}

}  // namespace worker
