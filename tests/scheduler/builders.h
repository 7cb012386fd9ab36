#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "base/block_hash.h"
#include "base/seal.h"
#include "proto/block_hashes.h"
#include "proto/header.h"
#include "proto/scheduler.pb.h"
#include "scheduler/cluster_view.h"
#include "scheduler/registry.h"

/// Workers, requests and messages with defaults, for the tests of the scheduler.
namespace scheduler_test {

struct WorkerSpec {
    std::uint64_t id = 1;
    scheduler::Role role = scheduler::Role::mixed;
    scheduler::WorkerStatus status = scheduler::WorkerStatus::ready;
    std::uint64_t numerics_id = 7;
    std::uint32_t requests_waiting = 0;
    std::uint32_t requests_running = 0;
    std::uint64_t prefill_tokens_queued = 0;
    std::uint32_t decode_sequences = 0;
    std::uint32_t kv_blocks_total = 1000;
    std::uint32_t blocks_used = 0;
    std::uint32_t context_tokens = 4096;
    std::uint32_t batch_sequences_max = 32;
    std::uint32_t queue_requests_max = 8;
    scheduler::PendingLoad pending = {};
    double speed = 1;  // above 1: slower
    bool lends_kv = true;
};

/// What a worker reported and what it was sent is all that it is expected to have.
inline void expect_what_is_told(scheduler::WorkerView& worker) {
    const auto& [load, pending] = std::tie(worker.load, worker.pending);
    worker.expected.prompts = std::max(1.0, static_cast<double>(load.requests_waiting) + pending.prefill_requests);
    worker.expected.prompt_tokens = static_cast<double>(load.prefill_tokens_queued + pending.prefill_tokens);
    worker.expected.decoding = static_cast<double>(load.decode_sequences) + pending.decode_sequences;
    worker.expected.decode_context = static_cast<double>(load.decode_context_tokens + pending.decode_context_tokens);
}

/// A worker that prefills 1000 tokens and decodes 100 tokens a second and moves KV at 100 MB/s.
inline scheduler::WorkerView make_worker(const WorkerSpec& spec) {
    scheduler::WorkerView worker;
    worker.id = base::WorkerId{spec.id};
    worker.incarnation = base::Incarnation{1000 + spec.id};
    worker.role = spec.role;
    worker.status = spec.status;
    worker.numerics_id = spec.numerics_id;
    worker.registration = spec.id;
    worker.limits = {.kv_blocks_total = spec.kv_blocks_total,
                     .block_tokens = 16,
                     .context_tokens = spec.context_tokens,
                     .batch_sequences_max = spec.batch_sequences_max,
                     .batch_tokens_max = 512,
                     .queue_requests_max = spec.queue_requests_max,
                     .kv_bytes_per_token = 1000,
                     .lends_kv = spec.lends_kv};
    worker.load = {.requests_waiting = spec.requests_waiting,
                   .requests_running = spec.requests_running,
                   .prefill_tokens_queued = spec.prefill_tokens_queued,
                   .decode_sequences = spec.decode_sequences,
                   .decode_context_tokens = spec.decode_sequences * std::uint64_t{100},
                   .blocks_room = spec.kv_blocks_total - spec.blocks_used,
                   .blocks_used = spec.blocks_used};
    worker.pending = spec.pending;
    worker.costs = {.prefill = {0.001 * spec.speed, 0.001 * spec.speed, 1e-9 * spec.speed},
                    .decode = {0.010 * spec.speed, 0.001 * spec.speed, 1e-7 * spec.speed},
                    .transfer = {0.001, 1e-8}};
    expect_what_is_told(worker);
    return worker;
}

inline proto::Header make_header(std::uint64_t numerics_id = 7, const std::string& model = "test-model") {
    return proto::make_header(model, numerics_id);
}

struct RegistrationSpec {
    std::uint64_t id = 1;
    std::uint64_t incarnation = 1001;
    proto::WorkerRole role = proto::WORKER_ROLE_MIXED;
    std::uint64_t numerics_id = 7;
    std::uint32_t kv_blocks_total = 1000;
    std::uint32_t block_tokens = 16;
    std::uint32_t context_tokens = 4096;
    std::uint32_t queue_requests_max = 64;
    std::string model = "test-model";
    std::uint64_t scheduler_epoch = 0;  // the highest that it has seen
    base::HashKey key = {};             // of the cluster
};

inline proto::RegisterWorker make_registration(const RegistrationSpec& spec) {
    proto::RegisterWorker registration;
    *registration.mutable_header() = make_header(spec.numerics_id, spec.model);
    registration.mutable_endpoint()->set_worker_id(spec.id);
    registration.mutable_endpoint()->set_incarnation(spec.incarnation);
    registration.mutable_endpoint()->set_control_address("127.0.0.1:" + std::to_string(10'000 + spec.id));
    registration.mutable_endpoint()->set_kv_address(
        base::seal_address(spec.key, base::Incarnation{spec.incarnation}, "kv-" + std::to_string(spec.id)));
    registration.set_role(spec.role);
    registration.set_kv_blocks_total(spec.kv_blocks_total);
    registration.set_block_tokens(spec.block_tokens);
    registration.set_context_tokens(spec.context_tokens);
    registration.set_batch_sequences_max(32);
    registration.set_batch_tokens_max(512);
    registration.set_queue_requests_max(spec.queue_requests_max);
    registration.set_kv_bytes_per_token(1000);
    registration.set_lends_kv(true);
    registration.set_scheduler_epoch(spec.scheduler_epoch);
    return registration;
}

/// An idle worker's heartbeat.
inline proto::Heartbeat make_heartbeat(std::uint64_t number, std::uint32_t blocks_free = 1000) {
    proto::Heartbeat heartbeat;
    *heartbeat.mutable_header() = make_header();
    heartbeat.set_number(number);
    heartbeat.mutable_load()->set_blocks_free(blocks_free);
    return heartbeat;
}

inline base::BlockHash make_hash(std::uint64_t number) {
    return {.high = number * 0x9e3779b97f4a7c15u, .low = number * 0xbf58476d1ce4e5b9u + 1};
}

inline std::vector<base::BlockHash> make_hashes(std::uint64_t first, std::size_t count) {
    std::vector<base::BlockHash> hashes;
    for (std::size_t i = 0; i < count; ++i) {
        hashes.push_back(make_hash(first + i));
    }
    return hashes;
}

inline proto::BlockEvents make_events(std::uint64_t number, const std::vector<base::BlockHash>& stored,
                                      const std::vector<base::BlockHash>& removed = {}, bool snapshot = false) {
    proto::BlockEvents events;
    events.set_number(number);
    events.set_snapshot(snapshot);
    events.set_stored(proto::write_block_hashes(stored));
    events.set_removed(proto::write_block_hashes(removed));
    return events;
}

struct PlaceSpec {
    std::uint64_t request_id = 1;
    std::uint32_t epoch = 0;
    std::uint32_t prompt_tokens = 100;
    std::uint32_t new_tokens_max = 20;
    std::vector<base::BlockHash> hashes = {};
    std::vector<std::uint64_t> avoid = {};
    std::string model = "test-model";
    std::string tenant = "";
    bool begun = false;
};

inline proto::PlaceRequest make_place(const PlaceSpec& spec) {
    proto::PlaceRequest request;
    *request.mutable_header() = make_header(7, spec.model);
    request.set_tenant(spec.tenant);
    request.set_begun(spec.begun);
    request.set_request_id(spec.request_id);
    request.set_epoch(spec.epoch);
    request.set_prompt_tokens(spec.prompt_tokens);
    request.set_new_tokens_max(spec.new_tokens_max);
    request.set_block_hashes(proto::write_block_hashes(spec.hashes));
    for (const std::uint64_t life : spec.avoid) {
        request.add_avoid_workers(life);
    }
    return request;
}

}  // namespace scheduler_test
