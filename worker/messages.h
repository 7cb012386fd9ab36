#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "proto/common.pb.h"
#include "proto/worker.pb.h"
#include "worker/sequence.h"
#include "worker/step_loop.h"

namespace worker {

/// What this worker says of itself in every message, and holds against what others say.
struct WorkerIdentity {
    std::string model;  // served name
    std::uint64_t numerics_id = 0;
    base::WorkerId worker{};
    base::Incarnation incarnation{};
    std::string control_address;  // host:port
    std::string kv_address;       // net::Transport::address()
};

sluice::proto::Header make_header(const WorkerIdentity& identity);
sluice::proto::WorkerEndpoint make_endpoint(const WorkerIdentity& identity);
/// Error: failed_precondition naming what differs. `numerics_id` 0 in the message is not compared.
base::Result<void> check_header(const sluice::proto::Header& header, const WorkerIdentity& identity);

/// Reads a Start. Lengths and ranges that only the engine knows are checked by the step loop.
/// Error: invalid_argument naming the field.
base::Result<StartRequest> read_start(const sluice::proto::Start& start, GatewayId gateway, const base::Clock& clock);
ContinueRequest read_continue(const sluice::proto::Continue& message, GatewayId gateway);
CancelRequest read_cancel(const sluice::proto::Cancel& message, GatewayId gateway);
void write_output(const SequenceOutput& output, sluice::proto::SequenceOutput& message);

}  // namespace worker
