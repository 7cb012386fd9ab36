#include "scheduler/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "proto/errors.h"
#include "proto/header.h"
#include "scheduler/refusals.h"

namespace scheduler {
namespace {

using base::ErrorCode;
using base::fail;

/// Names that an error lists.
constexpr std::size_t kModelsNamed = 8;
/// A gateway that has seen a newer scheduler finds it within seconds.
constexpr std::uint32_t kRetrySupersededMs = 1'000;

}  // namespace

Scheduler::Scheduler(SchedulerOptions options, const base::Clock& clock, base::Metrics& metrics,
                     std::uint64_t term_epoch)
    : options_(std::move(options)),
      clock_(clock),
      metrics_(metrics),
      started_(clock.now()),
      has_lease_(term_epoch != 0),
      epoch_(has_lease_ ? term_epoch : static_cast<std::uint64_t>(std::max<std::int64_t>(1, clock.unix_us()))),
      tenants_(options_.tenants_max),
      unrouted_metrics_(metrics, "") {}

std::size_t Scheduler::workers() const {
    std::size_t workers = 0;
    for (const auto& [model, pool] : pools_) {
        workers += pool->workers();
    }
    return workers;
}

std::size_t Scheduler::workers_heard() const {
    return static_cast<std::size_t>(
        std::count_if(sessions_.begin(), sessions_.end(), [](const auto& one) { return one.second.is_heard; }));
}

std::size_t Scheduler::placements() const {
    std::size_t placements = 0;
    for (const auto& [model, pool] : pools_) {
        placements += pool->placements();
    }
    return placements;
}

std::string Scheduler::served_models() const {
    std::string names;
    std::size_t count = 0;
    for (const auto& [model, pool] : pools_) {
        if (pool->workers() == 0) { continue; }
        if (++count > kModelsNamed) { return names + ", ..."; }
        names += (names.empty() ? "" : ", ") + base::log_safe(model);
    }
    return names;
}

bool Scheduler::may_serve(std::string_view model) const {
    const std::vector<std::string>& models = options_.models;
    return models.empty() || std::find(models.begin(), models.end(), model) != models.end();
}

/// Errors: invalid_argument (none named, and there are several), not_found, unavailable (its workers may be on their
/// way).
base::Result<ModelPool*> Scheduler::find(std::string_view model) {
    if (model.empty()) {
        ModelPool* only = nullptr;
        for (const auto& [name, pool] : pools_) {
            if (pool->workers() == 0) { continue; }
            if (only != nullptr) {
                return fail(ErrorCode::invalid_argument, "header.model is empty; served are " + served_models());
            }
            only = pool.get();
        }
        if (only == nullptr) { return fail(ErrorCode::unavailable, "there is no worker"); }
        return only;
    }
    if (const auto pool = pools_.find(model); pool != pools_.end()) { return pool->second.get(); }
    const bool is_settling = workers() == 0 || clock_.now() - started_ < options_.lease;
    if (may_serve(model) && (is_settling || !options_.models.empty())) {
        return fail(ErrorCode::unavailable, "there is no worker for model " + base::log_safe(model));
    }
    const std::string served = served_models();
    return fail(ErrorCode::not_found, "model " + base::log_safe(model) + " is not served here; " +
                                          (served.empty() ? "no model is" : "served are " + served));
}

base::Result<ModelPool*> Scheduler::find_or_make(const std::string& model) {
    if (!may_serve(model)) {
        return fail(ErrorCode::failed_precondition,
                    "model " + base::log_safe(model) + " is not among scheduler.models");
    }
    if (const auto pool = pools_.find(model); pool != pools_.end()) { return pool->second.get(); }
    if (pools_.size() >= options_.models_max) {
        const auto unused =
            std::find_if(pools_.begin(), pools_.end(), [](const auto& one) { return one.second->workers() == 0; });
        if (unused == pools_.end()) {
            return fail(ErrorCode::resource_exhausted,
                        "there are " + std::to_string(pools_.size()) + " models, which is models_max");
        }
        pools_.erase(unused);
    }
    return pools_.emplace(model, std::make_unique<ModelPool>(model, options_, tenants_, metrics_)).first->second.get();
}

/// Whoever has seen a higher epoch than ours while we have the lease saw it from somebody who leads no more.
void Scheduler::meet(std::uint64_t epoch_seen) {
    if (!has_lease_ || epoch_seen <= epoch_ || epoch_seen == std::numeric_limits<std::uint64_t>::max()) { return; }
    spdlog::warn("somebody has seen the epoch {}, above ours ({}): ours is {} now", epoch_seen, epoch_, epoch_seen + 1);
    epoch_ = epoch_seen + 1;
}

std::variant<ModelPool*, Refusal> Scheduler::route(const proto::PlaceRequest& request) {
    if (const auto fine = proto::check_header(request.header()); !fine) {
        return Refusal{.error = fine.error(), .reason = "bad_request"};
    }
    if (request.scheduler_epoch() > epoch_) {
        return Refusal{.error = {ErrorCode::aborted, "this scheduler (epoch " + std::to_string(epoch_) +
                                                         ") is superseded: the request has seen epoch " +
                                                         std::to_string(request.scheduler_epoch())},
                       .retry_after_ms = kRetrySupersededMs,
                       .reason = "superseded"};
    }
    auto pool = find(request.header().model());
    if (pool) { return *pool; }
    if (pool.error().code == ErrorCode::unavailable) {
        return Refusal{
            .error = std::move(pool.error()), .retry_after_ms = kRetryWithoutWorkerMs, .reason = "no_worker"};
    }
    const bool is_unknown = pool.error().code == ErrorCode::not_found;
    return Refusal{.error = std::move(pool.error()), .reason = is_unknown ? "unknown_model" : "bad_request"};
}

proto::PlaceReply Scheduler::place(const proto::PlaceRequest& request) {
    proto::PlaceReply reply;
    place(request, reply);
    return reply;
}

void Scheduler::place(const proto::PlaceRequest& request, proto::PlaceReply& reply) {
    const base::TimePoint started = clock_.now();
    heard(request.gateway(), started);
    meet(request.scheduler_epoch());
    reply.Clear();
    reply.set_scheduler_epoch(epoch_);
    auto routed = route(request);
    ModelPool* const* pool = std::get_if<ModelPool*>(&routed);
    const PlaceOutcome outcome =
        pool != nullptr ? (*pool)->decide(request, started) : PlaceOutcome(std::move(std::get<Refusal>(routed)));
    *reply.mutable_header() = pool != nullptr ? proto::make_header((*pool)->model(), (*pool)->numerics_id(started))
                                              : proto::make_header(request.header().model(), 0);
    ModelMetrics& metrics = pool != nullptr ? (*pool)->metrics() : unrouted_metrics_;
    const auto note = [&](std::string_view path, std::string_view reason) {
        metrics.decision(path, reason, std::chrono::duration<double>(clock_.now() - started).count());
    };
    if (const auto* placement = std::get_if<Placement>(&outcome)) {
        (*pool)->take(request, *placement, started, reply);
        note(placement->path(), placement->reason);
    } else {
        const auto& refusal = std::get<Refusal>(outcome);
        proto::set_error(*reply.mutable_refusal()->mutable_error(), refusal.error);
        reply.mutable_refusal()->set_retry_after_ms(refusal.retry_after_ms);
        note("refused", refusal.reason);
    }
}

void Scheduler::set_class_rules(ClassRules rules) {
    options_.classes = std::move(rules);
    for (const auto& [model, pool] : pools_) {
        pool->take_class_rules();
    }
}

void Scheduler::heard(std::uint64_t gateway, base::TimePoint now) {
    for (const auto& [model, pool] : pools_) {
        pool->heard(GatewayLife{gateway}, now);
    }
}

base::Result<proto::ReleaseReply> Scheduler::release(const proto::ReleaseRequest& request) {
    if (auto fine = proto::check_header(request.header()); !fine) { return base::pass_on(fine); }
    const base::TimePoint now = clock_.now();
    heard(request.gateway(), now);
    for (const proto::ReleaseRequest::Ended& ended : request.ended()) {
        static_cast<void>(std::any_of(pools_.begin(), pools_.end(), [&](const auto& one) {
            return one.second->release(GatewayLife{request.gateway()}, ended, now);
        }));
    }
    proto::ReleaseReply reply;
    *reply.mutable_header() = proto::make_header(request.header().model(), 0);
    reply.set_scheduler_epoch(epoch_);
    return reply;
}

base::Result<proto::DescribeReply> Scheduler::describe(const proto::DescribeRequest& request) {
    if (auto fine = proto::check_header(request.header()); !fine) { return base::pass_on(fine); }
    const base::TimePoint now = clock_.now();
    heard(request.gateway(), now);
    meet(request.scheduler_epoch());
    proto::DescribeReply reply;
    reply.set_worker_lease_ms(static_cast<std::uint32_t>(options_.lease.count()));
    *reply.mutable_header() = proto::make_header(request.header().model(), 0);
    reply.set_scheduler_epoch(epoch_);
    if (request.header().model().empty()) {
        for (const auto& [model, pool] : pools_) {
            if (pool->workers() > 0) { *reply.add_models() = pool->state(now); }
        }
    } else if (const auto pool = find(request.header().model())) {
        *reply.add_models() = (*pool)->state(now);
    } else if (pool.error().code != ErrorCode::unavailable) {
        return base::pass_on(pool);
    }
    return reply;
}

base::Result<Scheduler::Drained> Scheduler::drain(const proto::DrainRequest& request) {
    if (auto fine = proto::check_header(request.header()); !fine) { return base::pass_on(fine); }
    const auto session = session_of_.find(base::WorkerId{request.worker_id()});
    if (session == session_of_.end()) {
        return fail(ErrorCode::not_found, fmt::format("there is no worker {:016x}", request.worker_id()));
    }
    const Session& known = sessions_.at(session->second);
    if (request.incarnation() != 0 && request.incarnation() != base::raw(known.life.incarnation)) {
        return fail(ErrorCode::failed_precondition,
                    fmt::format("worker {:016x} has incarnation {:016x} now", request.worker_id(),
                                base::raw(known.life.incarnation)));
    }
    auto state = known.pool->drain(known.life, clock_.now());
    CHECK(state.has_value());
    spdlog::info("worker {:016x} incarnation {:016x} is asked to drain", base::raw(known.life.id),
                 base::raw(known.life.incarnation));
    Drained drained;
    drained.session = session->second;
    *drained.reply.mutable_header() = proto::make_header(known.pool->model(), 0);
    *drained.reply.mutable_worker() = std::move(*state);
    drained.reply.set_scheduler_epoch(epoch_);
    drained.directive.set_drain(true);
    drained.directive.set_scheduler_epoch(epoch_);
    return drained;
}

proto::WorkerDirective& Scheduler::add_directive(Answer& answer) const {
    proto::WorkerDirective& directive = answer.directives.emplace_back();
    directive.set_scheduler_epoch(epoch_);
    return directive;
}

base::Result<Scheduler::Answer> Scheduler::report(SessionId session, const proto::WorkerReport& report) {
    switch (report.report_case()) {
        case proto::WorkerReport::kRegistration:
            return enroll(session, report.registration());
        case proto::WorkerReport::kHeartbeat:
            return hear(session, report.heartbeat());
        case proto::WorkerReport::REPORT_NOT_SET:
            break;
    }
    return fail(ErrorCode::invalid_argument, "a report is a registration or a heartbeat");
}

/// The worker's present life, when that serves another model than `pool`'s.
const Scheduler::Session* Scheduler::life_of_other_model(base::WorkerId id, const ModelPool& pool) const {
    const auto session = session_of_.find(id);
    if (session == session_of_.end()) { return nullptr; }
    const Session& present = sessions_.at(session->second);
    return present.pool == &pool ? nullptr : &present;
}

base::Result<Scheduler::Answer> Scheduler::enroll(SessionId session, const proto::RegisterWorker& registration) {
    if (auto fine = proto::check_header(registration.header()); !fine) { return base::pass_on(fine); }
    if (registration.header().model().empty()) {
        return fail(ErrorCode::invalid_argument, "a registration needs header.model");
    }
    const Registry::Life life{.id = base::WorkerId{registration.endpoint().worker_id()},
                              .incarnation = base::Incarnation{registration.endpoint().incarnation()}};
    if (const auto known = sessions_.find(session); known != sessions_.end() && known->second.life.id != life.id) {
        return fail(ErrorCode::failed_precondition, "this stream belongs to another worker");
    }
    if (!session_of_.contains(life.id) && workers() >= options_.workers_max) {
        return fail(ErrorCode::resource_exhausted,
                    "there are " + std::to_string(workers()) + " workers, which is workers_max");
    }
    const auto pool = find_or_make(registration.header().model());
    if (!pool) { return base::pass_on(pool); }
    const Session* other = life_of_other_model(life.id, **pool);
    if (other != nullptr) {
        return fail(ErrorCode::failed_precondition, "this worker id belongs to a life that serves model " +
                                                        base::log_safe(other->pool->model()) +
                                                        "; it is free when that one has ended");
    }
    const auto enrolled = (*pool)->enroll(registration, clock_.now());
    if (!enrolled) { return base::pass_on(enrolled); }
    meet(registration.scheduler_epoch());
    if (!std::exchange(had_worker_, true)) { epoch_ = std::max(epoch_, registration.scheduler_epoch() + 1); }

    Answer answer;
    if (const auto former = session_of_.find(life.id); former != session_of_.end() && former->second != session) {
        answer.superseded = former->second;
        sessions_.erase(former->second);
    }
    sessions_[session] = {.pool = *pool, .life = life};
    session_of_[life.id] = session;
    spdlog::info("worker {:016x} incarnation {:016x} at {} {} as {} of {}{}", base::raw(life.id),
                 base::raw(life.incarnation), base::log_safe(registration.endpoint().control_address()),
                 enrolled->known ? "attached again" : "registered", proto::WorkerRole_Name(registration.role()),
                 base::log_safe((*pool)->model()), enrolled->replaced ? ", replacing its former life" : "");

    proto::Registered& registered = *add_directive(answer).mutable_registered();
    *registered.mutable_header() = proto::make_header((*pool)->model(), (*pool)->numerics_id(clock_.now()));
    registered.set_heartbeat_ms(static_cast<std::uint32_t>(options_.heartbeat.count()));
    registered.set_lease_ms(static_cast<std::uint32_t>(options_.lease.count()));
    // One may be late by as much again before it is suspected.
    registered.set_idle_heartbeat_ms(
        static_cast<std::uint32_t>(std::max(options_.heartbeat, options_.suspect_after / 2).count()));
    registered.set_scheduler_epoch(epoch_);
    if (has_lease_) { registered.set_leader_silence_ms(static_cast<std::uint32_t>(options_.leader_silence.count())); }
    if ((*pool)->is_drained(life)) { add_directive(answer).set_drain(true); }
    return answer;
}

base::Result<Scheduler::Answer> Scheduler::hear(SessionId session, const proto::Heartbeat& heartbeat) {
    const auto known = sessions_.find(session);
    if (known == sessions_.end()) {
        return fail(ErrorCode::failed_precondition,
                    "a heartbeat before a registration, or after another life registered");
    }
    if (auto fine = proto::check_header(heartbeat.header()); !fine) { return base::pass_on(fine); }
    Answer answer;
    const Registry::Heard heard = known->second.pool->hear(known->second.life, heartbeat, clock_.now());
    known->second.is_heard = true;
    if (heard.resend_snapshot) { add_directive(answer).set_resend_snapshot(true); }
    return answer;
}

void Scheduler::detach(SessionId session) {
    const auto known = sessions_.find(session);
    if (known == sessions_.end()) { return; }
    const auto [pool, life, is_heard] = known->second;
    sessions_.erase(known);
    if (!pool->leave(life)) { return; }
    session_of_.erase(life.id);
    spdlog::info("worker {:016x} incarnation {:016x} is gone: its stream ended", base::raw(life.id),
                 base::raw(life.incarnation));
    pool->tell_metrics(clock_.now());
}

std::vector<SessionId> Scheduler::tick() {
    const base::TimePoint now = clock_.now();
    std::vector<SessionId> ended;
    for (const auto& [model, pool] : pools_) {
        for (const Registry::Life& life : pool->expire(now)) {
            const auto session = session_of_.find(life.id);
            CHECK(session != session_of_.end());
            spdlog::warn("worker {:016x} incarnation {:016x} is gone: silent for {} ms", base::raw(life.id),
                         base::raw(life.incarnation), options_.lease.count());
            ended.push_back(session->second);
            sessions_.erase(session->second);
            session_of_.erase(session);
        }
        pool->tell_metrics(now);
    }
    return ended;
}

}  // namespace scheduler
