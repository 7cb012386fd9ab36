#include "scheduler/scheduler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/log.h"
#include "proto/block_hashes.h"
#include "proto/errors.h"
#include "proto/header.h"

namespace scheduler {
namespace {

using base::ErrorCode;
using base::fail;
namespace messages = sluice::proto;

/// More avoided lives than this are not looked at: a request fails on a few workers, then for good.
constexpr int kAvoidedMax = 64;
/// Samples that are learned from one heartbeat; later ones say the same.
constexpr int kSamplesMax = 256;

std::uint32_t microseconds(double seconds) {
    return static_cast<std::uint32_t>(
        std::clamp(std::round(seconds * 1e6), 1.0, double{std::numeric_limits<std::uint32_t>::max()}));
}

std::string_view status_name(WorkerStatus status) {
    switch (status) {
        case WorkerStatus::ready:
            return "ready";
        case WorkerStatus::draining:
            return "draining";
        case WorkerStatus::suspect:
            return "suspect";
        case WorkerStatus::gone:
            return "gone";
    }
    return "gone";
}

Registry::Options registry_options(const SchedulerOptions& options) {
    return {.workers_max = options.workers_max,
            .prefix_blocks_max = options.prefix_blocks_max,
            .in_flight = {.placements_max = options.placements_max},
            .suspect_after = options.suspect_after,
            .lease = options.lease};
}

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, const base::Clock& clock, base::Metrics& metrics)
    : options_(std::move(options)),
      clock_(clock),
      metrics_(metrics),
      registry_(registry_options(options_)),
      model_(options_.model) {}

base::Result<void> Scheduler::check_header(const messages::Header& header) const {
    proto::ExpectedHeader expected;
    if (!model_.empty() && !header.model().empty()) { expected.model = model_; }
    return proto::check_header(header, expected);
}

messages::Header Scheduler::header() {
    return proto::make_header(model_, pool_numerics(registry_.view(clock_.now())).value_or(0));
}

messages::PlaceReply Scheduler::place(const messages::PlaceRequest& request) {
    const base::TimePoint started = clock_.now();
    messages::PlaceReply reply;
    const PlaceOutcome outcome = decide(request, started);
    *reply.mutable_header() = header();
    std::string_view path = "refused";
    std::string_view reason;
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
        remember(request, *placement, started);
        messages::Placement& out = *reply.mutable_placement();
        *out.mutable_prefill() = registry_.registration(placement->prefill).endpoint();
        *out.mutable_decode() = registry_.registration(placement->decode).endpoint();
        out.set_cached_prompt_tokens(placement->cached_prompt_tokens);
        out.set_predicted_ttft_us(microseconds(placement->ttft_seconds));
        out.set_predicted_tpot_us(microseconds(placement->tpot_seconds));
        path = placement->path();
        out.set_path(std::string(path));
        reason = placement->reason;
        const std::uint64_t numerics = registry_.registration(placement->decode).header().numerics_id();
        const bool one_id = registry_.registration(placement->prefill).header().numerics_id() == numerics;
        reply.mutable_header()->set_numerics_id(one_id ? numerics : 0);
    } else {
        const auto& refusal = std::get<Refusal>(outcome);
        proto::set_error(*reply.mutable_refusal()->mutable_error(), refusal.error);
        reply.mutable_refusal()->set_retry_after_ms(refusal.retry_after_ms);
        reason = refusal.reason;
    }
    metrics_.decision(model_, path, reason, std::chrono::duration<double>(clock_.now() - started).count());
    return reply;
}

PlaceOutcome Scheduler::decide(const messages::PlaceRequest& request, base::TimePoint now) {
    const auto refuse = [](base::Error error, std::string_view reason) {
        return Refusal{.error = std::move(error), .retry_after_ms = 0, .reason = reason};
    };
    if (auto fine = check_header(request.header()); !fine) { return refuse(fine.error(), "bad_request"); }
    const auto chain = proto::read_block_hashes(request.block_hashes());
    if (!chain) { return refuse(chain.error(), "bad_request"); }
    if (request.deadline_in_us() < 0) {
        return refuse({ErrorCode::deadline_exceeded, "the deadline of the request has passed"}, "expired");
    }
    const base::RequestId id{request.request_id()};
    if (const auto epoch = registry_.in_flight().epoch_of(id); epoch && base::raw(*epoch) > request.epoch()) {
        return refuse(
            {ErrorCode::aborted, "epoch " + std::to_string(request.epoch()) + " of the request is late: epoch " +
                                     std::to_string(base::raw(*epoch)) + " was placed"},
            "late");
    }
    std::vector<base::Incarnation> avoid;
    for (const std::uint64_t life : request.avoid_workers()) {
        avoid.push_back(base::Incarnation{life});
        if (avoid.size() >= kAvoidedMax) { break; }
    }
    // A stream that has begun must go on with the same numbers; a new one takes what the pool has.
    const std::uint64_t numerics = request.begun() ? request.header().numerics_id() : 0;
    return scheduler::place({.workers = registry_.view(now), .rules = options_.rules},
                            {.prompt_tokens = request.prompt_tokens(),
                             .new_tokens_max = request.new_tokens_max(),
                             .numerics_id = numerics,
                             .cached_blocks = registry_.match(*chain),
                             .avoid = avoid});
}

void Scheduler::remember(const messages::PlaceRequest& request, const Placement& placement, base::TimePoint now) {
    const std::uint64_t tokens = std::uint64_t{request.prompt_tokens()} + request.new_tokens_max();
    const std::uint32_t block_tokens = registry_.registration(placement.decode).block_tokens();
    registry_.in_flight().add({.request = base::RequestId{request.request_id()},
                               .epoch = base::Epoch{request.epoch()},
                               .prefill_slot = static_cast<std::uint32_t>(placement.prefill),
                               .decode_slot = static_cast<std::uint32_t>(placement.decode),
                               .uncached_tokens = request.prompt_tokens() - placement.cached_prompt_tokens,
                               .prompt_tokens = request.prompt_tokens(),
                               .decode_blocks = (tokens + block_tokens - 1) / block_tokens,
                               .ttft_seconds = placement.ttft_seconds,
                               .tpot_seconds = placement.tpot_seconds},
                              now);
}

base::Result<messages::ReleaseReply> Scheduler::release(const messages::ReleaseRequest& request) {
    if (auto fine = check_header(request.header()); !fine) { return pass_on(fine); }
    const auto tell_ttft = [this](const PlacedRequest& placed, std::uint32_t measured_us) {
        if (measured_us != 0) { metrics_.prediction("ttft", measured_us * 1e-6 / std::max(placed.ttft_seconds, 1e-6)); }
    };
    for (const messages::ReleaseRequest::Ended& ended : request.ended()) {
        const base::RequestId id{ended.request_id()};
        const base::Epoch epoch{ended.epoch()};
        if (ended.phase() == messages::ReleaseRequest::Ended::PHASE_PREFILL) {
            if (const auto placed = registry_.in_flight().first_token(id, epoch)) {
                tell_ttft(*placed, ended.ttft_us());
            }
        } else if (ended.phase() == messages::ReleaseRequest::Ended::PHASE_ALL) {
            const auto over = registry_.in_flight().ended(id, epoch);
            if (!over) { continue; }
            if (!over->first_token_told) { tell_ttft(over->placed, ended.ttft_us()); }
            if (ended.tpot_us() != 0) {
                metrics_.prediction("tpot", ended.tpot_us() * 1e-6 / std::max(over->placed.tpot_seconds, 1e-6));
            }
        }
    }
    messages::ReleaseReply reply;
    *reply.mutable_header() = header();
    return reply;
}

base::Result<messages::DescribeReply> Scheduler::describe(const messages::DescribeRequest& request) {
    if (auto fine = check_header(request.header()); !fine) { return pass_on(fine); }
    const base::TimePoint now = clock_.now();
    messages::DescribeReply reply;
    *reply.mutable_header() = header();
    const std::uint64_t numerics = reply.header().numerics_id();
    bool prefill = false;
    bool decode = false;
    std::uint64_t prefill_tokens = 0;
    std::uint64_t decode_tokens = 0;
    const std::span<const WorkerView> workers = registry_.view(now);
    for (std::size_t slot = 0; slot < workers.size(); ++slot) {
        const WorkerView& worker = workers[slot];
        if (worker.status == WorkerStatus::gone) { continue; }
        messages::WorkerState& state = *reply.add_workers();
        *state.mutable_endpoint() = registry_.registration(slot).endpoint();
        state.set_role(registry_.registration(slot).role());
        state.set_state(std::string(status_name(worker.status)));
        *state.mutable_load() = registry_.load(slot);
        state.set_heartbeat_age_us(static_cast<std::uint64_t>(
            std::chrono::duration_cast<std::chrono::microseconds>(registry_.heartbeat_age(slot, now)).count()));
        reply.set_block_tokens(worker.limits.block_tokens);
        if (worker.numerics_id != numerics && !options_.rules.allow_mixed_numerics) { continue; }
        if (can_prefill(worker)) { prefill_tokens = std::max(prefill_tokens, tokens_capacity(worker)); }
        if (can_decode(worker)) { decode_tokens = std::max(decode_tokens, tokens_capacity(worker)); }
        if (worker.status != WorkerStatus::ready) { continue; }
        prefill = prefill || can_prefill(worker);
        decode = decode || can_decode(worker);
    }
    const std::uint64_t context = prefill_tokens == 0 ? decode_tokens : std::min(prefill_tokens, decode_tokens);
    reply.set_context_tokens(static_cast<std::uint32_t>(context));
    reply.set_ready(prefill && decode);
    return reply;
}

base::Result<Scheduler::Answer> Scheduler::report(SessionId session, const messages::WorkerReport& report) {
    switch (report.report_case()) {
        case messages::WorkerReport::kRegistration:
            return enroll(session, report.registration());
        case messages::WorkerReport::kHeartbeat:
            return hear(session, report.heartbeat());
        case messages::WorkerReport::REPORT_NOT_SET:
            break;
    }
    return fail(ErrorCode::invalid_argument, "a report is a registration or a heartbeat");
}

base::Result<Scheduler::Answer> Scheduler::enroll(SessionId session, const messages::RegisterWorker& registration) {
    if (auto fine = check_header(registration.header()); !fine) { return pass_on(fine); }
    if (registration.header().model().empty()) {
        return fail(ErrorCode::invalid_argument, "a registration needs header.model");
    }
    if (const auto known = sessions_.find(session);
        known != sessions_.end() && base::raw(known->second.id) != registration.endpoint().worker_id()) {
        return fail(ErrorCode::failed_precondition, "this stream belongs to another worker");
    }
    auto enrolled = registry_.enroll(registration, clock_.now());
    if (!enrolled) { return pass_on(enrolled); }
    if (model_.empty()) { model_ = registration.header().model(); }
    Answer answer;
    const Registry::Life life = enrolled->life;
    if (const auto former = session_of_.find(life.id); former != session_of_.end() && former->second != session) {
        answer.superseded = former->second;
        sessions_.erase(former->second);
    }
    sessions_[session] = life;
    session_of_[life.id] = session;
    if (enrolled->replaced) { predictor_.forget(life.id); }
    registry_.set_costs(life.id, predictor_.costs(life.id, registry_.role(*registry_.slot_of(life.id))));
    spdlog::info("worker {:016x} incarnation {:016x} at {} {} as {}{}", base::raw(life.id), base::raw(life.incarnation),
                 base::log_safe(registration.endpoint().control_address()),
                 enrolled->known ? "attached again" : "registered", messages::WorkerRole_Name(registration.role()),
                 enrolled->replaced ? ", replacing its former life" : "");

    messages::Registered& registered = *answer.directives.emplace_back().mutable_registered();
    *registered.mutable_header() = header();
    registered.set_heartbeat_ms(static_cast<std::uint32_t>(options_.heartbeat.count()));
    registered.set_lease_ms(static_cast<std::uint32_t>(options_.lease.count()));
    return answer;
}

base::Result<Scheduler::Answer> Scheduler::hear(SessionId session, const messages::Heartbeat& heartbeat) {
    const auto known = sessions_.find(session);
    if (known == sessions_.end()) {
        return fail(ErrorCode::failed_precondition,
                    "a heartbeat before a registration, or after another life registered");
    }
    if (auto fine = check_header(heartbeat.header()); !fine) { return pass_on(fine); }
    Answer answer;
    const Registry::Heard heard = registry_.hear(known->second, heartbeat, clock_.now());
    if (!heard.fresh) { return answer; }
    learn(known->second, heartbeat);
    if (heard.resend_snapshot) { answer.directives.emplace_back().set_resend_snapshot(true); }
    return answer;
}

void Scheduler::learn(const Registry::Life& life, const messages::Heartbeat& heartbeat) {
    const auto slot = registry_.slot_of(life.id);
    CHECK(slot.has_value());
    const Role role = registry_.role(*slot);
    const auto tell = [this](std::string_view kind, const std::optional<double>& ratio) {
        if (ratio) { metrics_.prediction(kind, *ratio); }
    };
    for (int i = 0; i < std::min(kSamplesMax, heartbeat.steps_size()); ++i) {
        const Predictor::StepRatios ratios = predictor_.observe_step(life.id, role, heartbeat.steps(i));
        tell("prefill_step", ratios.prefill);
        tell("decode_step", ratios.decode);
    }
    for (int i = 0; i < std::min(kSamplesMax, heartbeat.transfers_size()); ++i) {
        tell("transfer", predictor_.observe_transfer(life.id, role, heartbeat.transfers(i)));
    }
    registry_.set_costs(life.id, predictor_.costs(life.id, role));
}

void Scheduler::forget(const Registry::Life& life) {
    predictor_.forget(life.id);
    session_of_.erase(life.id);
    if (registry_.workers() == 0) {
        metrics_.cluster(model_, registry_.view(clock_.now()));  // the last word under this model's name
        model_ = options_.model;
    }
}

void Scheduler::detach(SessionId session) {
    const auto known = sessions_.find(session);
    if (known == sessions_.end()) { return; }
    const Registry::Life life = known->second;
    sessions_.erase(known);
    if (!registry_.leave(life)) { return; }
    spdlog::info("worker {:016x} incarnation {:016x} is gone: its stream ended", base::raw(life.id),
                 base::raw(life.incarnation));
    forget(life);
}

std::vector<SessionId> Scheduler::tick() {
    const base::TimePoint now = clock_.now();
    std::vector<SessionId> ended;
    for (const Registry::Life& life : registry_.expire(now)) {
        const auto session = session_of_.find(life.id);
        CHECK(session != session_of_.end());
        spdlog::warn("worker {:016x} incarnation {:016x} is gone: silent for {} ms", base::raw(life.id),
                     base::raw(life.incarnation), options_.lease.count());
        ended.push_back(session->second);
        sessions_.erase(session->second);
        forget(life);
    }
    if (!model_.empty()) { metrics_.cluster(model_, registry_.view(now)); }
    return ended;
}

}  // namespace scheduler
