#pragma once

#include <mutex>
#include <utility>

#include "base/ids.h"
#include "proto/cluster_key.h"
#include "proto/turn.grpc.pb.h"
#include "worker/role_turn.h"

namespace worker {

/// proto Roles of a worker, for who runs the cluster (`sluice turn`, `sluice autopilot`): by the cluster's key, and
/// where processes have certificates by one of role operator. gRPC's threads; answers at once.
class TurnService final : public sluice::proto::Roles::CallbackService {
public:
    explicit TurnService(proto::ClusterKey key) : key_(std::move(key)) {}

    /// From here on it answers; before, unavailable. `turn` must outlive the server.
    void attach(base::Incarnation incarnation, RoleTurn& turn);

    grpc::ServerUnaryReactor* Turn(grpc::CallbackServerContext* context, const sluice::proto::TurnRequest* request,
                                   sluice::proto::TurnReply* reply) override;

private:
    grpc::Status answer(const grpc::CallbackServerContext& context, const sluice::proto::TurnRequest& request,
                        sluice::proto::TurnReply& reply);

    const proto::ClusterKey key_;
    std::mutex mutex_;  // guards the next two
    base::Incarnation incarnation_{};
    RoleTurn* turn_ = nullptr;
};

}  // namespace worker
