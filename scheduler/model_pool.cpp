#include "scheduler/model_pool.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/log.h"
#include "proto/block_hashes.h"
#include "scheduler/decide.h"
#include "scheduler/forecast.h"

namespace scheduler {
namespace {

using base::ErrorCode;

/// More avoided lives than this are not looked at: a request fails on a few workers, then for good.
constexpr int kAvoidedMax = 64;
/// Samples that are learned from one heartbeat; later ones say the same.
constexpr int kSamplesMax = 256;
/// What an answer is taken to be long before any has ended, and how many the mean remembers.
constexpr double kAnswerTokensAtFirst = 128;
constexpr double kAnswersRemembered = 64;

/// What coming back is worth: a conversation finds nearly all of its prompt and of the answer before it, which no
/// report may show yet; what shares a key or a parent finds what they have in common.
constexpr double kSessionShare = 0.5;
constexpr double kGroupShare = 0.25;

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
        case WorkerStatus::ejected:
            return "ejected";
        case WorkerStatus::gone:
            return "gone";
    }
    return "gone";
}

Registry::Options registry_options(const SchedulerOptions& options) {
    return {.workers_max = options.workers_max,
            .prefix_blocks_max = options.prefix_blocks_max,
            .in_flight = {.placements_max = options.placements_max, .gateway_lease = options.gateway_lease},
            .ejections = {.after = options.eject_after_failures,
                          .time = options.eject_time,
                          .percent_max = options.eject_percent_max},
            .rules = options.rules,
            .scan_workers_max = options.scan_workers_max,
            .suspect_after = options.suspect_after,
            .lease = options.lease};
}

double ttft_seconds_left(const proto::PlaceRequest& request) {
    return request.first_token_in_us() == 0 ? kNoTarget : static_cast<double>(request.first_token_in_us()) * 1e-6;
}

double tpot_seconds_target(const proto::PlaceRequest& request) {
    return request.slo_tpot_ms() == 0 ? kNoTarget : request.slo_tpot_ms() * 1e-3;
}

std::string_view class_of(const proto::PlaceRequest& request) {
    return request.slo_class().empty() ? std::string_view("default") : request.slo_class();
}

/// Tenants with a weight have an id of their own, and the first ones.
std::vector<double> weights_of(const SchedulerOptions& options, Tenants& tenants) {
    std::vector<double> weights;
    for (const auto& [name, weight] : options.tenant_weights) {
        const std::size_t id = base::raw(tenants.id_of(name));
        if (id >= weights.size()) { weights.resize(id + 1, 1); }
        weights[id] = weight;
    }
    return weights;
}

/// Tokens of an answer that went on so long after its first one.
double tokens_of_answer(const InFlight::Ended& over, std::uint32_t tpot_us) {
    if (tpot_us == 0) { return 1; }
    const double seconds = std::chrono::duration<double>(over.decoded).count();
    return std::clamp(1 + seconds / (tpot_us * 1e-6), 1.0,
                      std::max(1.0, static_cast<double>(over.placed.answer_tokens_max)));
}

/// Tokens were given out: the rest must have the same numbers. A gateway of minor version 0 does not say so, and has
/// counted a first placement that was not answered.
bool has_begun(const proto::PlaceRequest& request) {
    return request.begun() || (request.header().protocol_minor() == 0 && request.epoch() > 0);
}

}  // namespace

ModelPool::ModelPool(std::string model, const SchedulerOptions& options, Tenants& tenants, base::Metrics& metrics)
    : model_(std::move(model)),
      options_(options),
      tenants_(tenants),
      metrics_(metrics, model_),
      registry_(registry_options(options)),
      fair_share_({.weights = weights_of(options, tenants)}),
      aims_({.window = options.attainment_window}),
      affinity_(options.affinity_names_max),
      answer_tokens_(kAnswerTokensAtFirst) {
    take_class_rules();
}

void ModelPool::take_class_rules() {
    ClassAims::Aims aims;
    for (const auto& [name, rule] : options_.classes) {
        if (rule.attainment) { aims[name] = {*rule.attainment, rule.priority}; }
    }
    aims_.set(aims);
}

std::int32_t ModelPool::priority_of(const proto::PlaceRequest& request) const {
    const auto known = options_.classes.find(class_of(request));
    return known == options_.classes.end() ? 0 : known->second.priority;
}

AimedClass ModelPool::aimed_class_of(const proto::PlaceRequest& request) const {
    if (request.slo_ttft_ms() == 0 && request.slo_tpot_ms() == 0) { return AimedClass::none; }
    return aims_.find(class_of(request));
}

void ModelPool::judge(const PlacedRequest& placed, const proto::ReleaseRequest::Ended& ended, base::TimePoint now) {
    // What was cancelled or failed before its first token says nothing, nor does the rest of what another worker lost.
    if (ended.ttft_us() == 0 || ended.epoch() > 0) { return; }
    const bool is_met =
        ended.ttft_us() * 1e-6 <= placed.ttft_seconds_left && ended.tpot_us() * 1e-6 <= placed.tpot_seconds_target;
    aims_.judged(placed.slo_class, is_met, now);
}

double ModelPool::answer_tokens_expected(const proto::PlaceRequest& request) const {
    return std::min(answer_tokens_, static_cast<double>(request.new_tokens_max()));
}

std::uint64_t ModelPool::numerics_id(base::TimePoint now) {
    if (registry_.workers() <= options_.scan_workers_max) { static_cast<void>(registry_.view(now)); }
    if (const auto generating = registry_.pool_numerics()) { return *generating; }
    return encode_numerics(registry_.view(now)).value_or(0);
}

PlaceOutcome ModelPool::decide(const proto::PlaceRequest& request, base::TimePoint now) {
    const auto refuse = [](base::Error error, std::string_view reason) {
        return Refusal{.error = std::move(error), .retry_after_ms = 0, .reason = reason};
    };
    auto chain = proto::read_block_hashes(request.block_hashes());
    if (!chain) { return refuse(chain.error(), "bad_request"); }
    chain_ = std::move(*chain);
    if (request.deadline_in_us() < 0) {
        return refuse({ErrorCode::deadline_exceeded, "the deadline of the request has passed"}, "expired");
    }
    const base::RequestId id{request.request_id()};
    if (const PlacedRequest* placed = registry_.in_flight().placed(id)) {
        if (placed->gateway != GatewayLife{request.gateway()}) {
            return refuse({ErrorCode::permission_denied, "this request belongs to another gateway"}, "bad_request");
        }
        if (base::raw(placed->epoch) > request.epoch()) {
            return refuse(
                {ErrorCode::aborted, "epoch " + std::to_string(request.epoch()) + " of the request is late: epoch " +
                                         std::to_string(base::raw(placed->epoch)) + " was placed"},
                "late");
        }
    }
    std::vector<base::Incarnation> avoid;
    for (const std::uint64_t life : request.avoid_workers()) {
        avoid.push_back(base::Incarnation{life});
        if (avoid.size() >= kAvoidedMax) { break; }
    }
    note_failures(id, avoid, now);
    if (request.encode()) {
        return place_encode({.workers = registry_.view(now), .rules = options_.rules},
                            {.prompt_tokens = request.prompt_tokens(), .avoid = avoid});
    }
    const TenantId tenant = tenants_.id_of(request.tenant());
    const std::int32_t priority = priority_of(request);
    fair_share_.asks(tenant, priority, now);
    const std::vector<Affinity> affinities = affinities_of(request);
    const AimedClass slo_class = aimed_class_of(request);
    PlaceOutcome outcome =
        scheduler::decide(registry_, options_.rules,
                          {.prompt_tokens = request.prompt_tokens(),
                           .new_tokens_max = request.new_tokens_max(),
                           .numerics_id = has_begun(request) ? request.header().numerics_id() : 0,
                           .affinities = affinities,
                           .avoid = avoid,
                           .ttft_seconds_left = ttft_seconds_left(request),
                           .tpot_seconds_target = tpot_seconds_target(request),
                           .may_refuse = !has_begun(request),
                           .queue_share = fair_share_.fraction(tenant, priority, now) * aims_.fraction(slo_class, now)},
                          chain_, now);
    const auto* const refusal = std::get_if<Refusal>(&outcome);
    if (refusal != nullptr && refusal->error.code == ErrorCode::resource_exhausted) {
        aims_.judged(slo_class, false, now);
    }
    return outcome;
}

void ModelPool::note_failures(base::RequestId request, std::span<const base::Incarnation> lives, base::TimePoint now) {
    for (const base::Incarnation life : lives) {
        const auto time = registry_.failed(life, request, now);
        if (!time) { continue; }
        spdlog::warn(
            "the worker with incarnation {:016x} has failed {} or more requests in a row, though it reports: nothing "
            "new goes to it for {} ms",
            base::raw(life), options_.eject_after_failures,
            std::chrono::duration_cast<std::chrono::milliseconds>(*time).count());
    }
}

std::vector<Affinity> ModelPool::affinities_of(const proto::PlaceRequest& request) const {
    std::vector<Affinity> affinities;
    const auto add = [&](std::uint64_t name, double share) {
        const auto last = affinity_.find(AffinityName{name});
        if (!last) { return false; }
        affinities.push_back({last->prefill, share});
        if (last->decode != last->prefill) { affinities.push_back({last->decode, share}); }
        return true;
    };
    if (!add(request.session(), kSessionShare)) { add(request.parent_session(), kGroupShare); }
    add(request.prompt_group(), kGroupShare);
    return affinities;
}

void ModelPool::remember_names(const proto::PlaceRequest& request, const Placement& placement) {
    if (placement.encodes) { return; }
    const AffinityTable::Last last{
        .prefill = base::Incarnation{registry_.registration(placement.prefill).endpoint().incarnation()},
        .decode = base::Incarnation{registry_.registration(placement.decode).endpoint().incarnation()}};
    if (const std::vector<Affinity> known = affinities_of(request); !known.empty()) {
        metrics_.affinity(std::any_of(known.begin(), known.end(),
                                      [&last](const Affinity& one) { return one.worker == last.prefill; }));
    }
    affinity_.note(AffinityName{request.prompt_group()}, last);
    if (request.session_ends()) {
        affinity_.forget(AffinityName{request.session()});
    } else {
        affinity_.note(AffinityName{request.session()}, last);
    }
}

void ModelPool::take(const proto::PlaceRequest& request, const Placement& placement, base::TimePoint now,
                     proto::PlaceReply& reply) {
    const proto::RegisterWorker& prefill = registry_.registration(placement.prefill);
    const proto::RegisterWorker& decode = registry_.registration(placement.decode);
    proto::Placement& out = *reply.mutable_placement();
    *out.mutable_prefill() = prefill.endpoint();
    *out.mutable_decode() = decode.endpoint();
    out.set_cached_prompt_tokens(placement.cached_prompt_tokens);
    out.set_predicted_ttft_us(microseconds(placement.ttft_seconds));
    out.set_predicted_tpot_us(microseconds(placement.tpot_seconds));
    out.set_path(std::string(placement.path()));
    if (placement.kv_source) {
        *out.mutable_kv_source()->mutable_worker() = registry_.registration(*placement.kv_source).endpoint();
        out.mutable_kv_source()->set_kv_tokens(placement.kv_source_tokens);
    }
    const std::uint64_t numerics = decode.header().numerics_id();
    reply.mutable_header()->set_numerics_id(prefill.header().numerics_id() == numerics ? numerics : 0);

    const std::uint64_t tokens = std::uint64_t{request.prompt_tokens()} + request.new_tokens_max();
    const std::uint64_t decode_blocks =
        placement.encodes ? 0 : (tokens + decode.block_tokens() - 1) / decode.block_tokens();
    const TenantId tenant = tenants_.id_of(request.tenant());
    out.set_tenant_tokens(fair_share_.tokens_ahead(tenant, priority_of(request), now));
    const double answer_tokens = placement.encodes ? 0 : answer_tokens_expected(request);
    if (const PlacedRequest* former = registry_.in_flight().placed(base::RequestId{request.request_id()})) {
        fair_share_.charge(former->tenant, 0, -former->answer_tokens);  // the rest of it is written elsewhere
    }
    fair_share_.charge(tenant, request.prompt_tokens() - placement.cached_prompt_tokens, answer_tokens);
    registry_.in_flight().add({.request = base::RequestId{request.request_id()},
                               .epoch = base::Epoch{request.epoch()},
                               .tenant = tenant,
                               .gateway = GatewayLife{request.gateway()},
                               .prefill_slot = static_cast<std::uint32_t>(placement.prefill),
                               .decode_slot = static_cast<std::uint32_t>(placement.decode),
                               .uncached_tokens = request.prompt_tokens() - placement.cached_prompt_tokens,
                               .prompt_tokens = request.prompt_tokens(),
                               .decode_blocks = decode_blocks,
                               .ttft_seconds = placement.ttft_seconds,
                               .tpot_seconds = placement.tpot_seconds,
                               .ttft_seconds_left = ttft_seconds_left(request),
                               .tpot_seconds_target = tpot_seconds_target(request),
                               .answer_tokens_max = request.new_tokens_max(),
                               .answer_tokens = answer_tokens,
                               .is_probe = placement.is_probe,
                               .slo_class = aimed_class_of(request)},
                              now);
    for (const std::size_t slot : {placement.prefill, placement.decode}) {
        registry_.placed(slot, base::RequestId{request.request_id()}, now);
    }
    if (!placement.encodes) {
        registry_.coming_blocks().add(base::RequestId{request.request_id()},
                                      static_cast<std::uint32_t>(placement.prefill), chain_);
    }
    remember_names(request, placement);
}

bool ModelPool::release(GatewayLife gateway, const proto::ReleaseRequest::Ended& ended, base::TimePoint now) {
    const base::RequestId id{ended.request_id()};
    const base::Epoch epoch{ended.epoch()};
    const auto tell = [this](std::string_view kind, std::uint32_t measured_us, double predicted_seconds) {
        if (measured_us != 0) { metrics_.prediction(kind, measured_us * 1e-6 / std::max(predicted_seconds, 1e-6)); }
    };
    if (ended.phase() == proto::ReleaseRequest::Ended::PHASE_PREFILL) {
        const auto placed = registry_.in_flight().first_token(id, epoch, now, gateway);
        if (placed) { tell("ttft", ended.ttft_us(), placed->ttft_seconds); }
        if (placed) { registry_.succeeded(placed->prefill_slot, now); }
        if (placed) { registry_.coming_blocks().computed(id); }
        return placed.has_value();
    }
    if (ended.phase() != proto::ReleaseRequest::Ended::PHASE_ALL) { return false; }
    const auto over = registry_.in_flight().ended(id, epoch, now, gateway);
    if (!over) { return false; }
    judge(over->placed, ended, now);
    // Its first token shows that a worker computes; of one that only decodes, the second.
    if (ended.ttft_us() != 0) { registry_.succeeded(over->placed.prefill_slot, now); }
    if (ended.tpot_us() != 0 && over->placed.decode_slot != over->placed.prefill_slot) {
        registry_.succeeded(over->placed.decode_slot, now);
    }
    registry_.coming_blocks().ended(id, over->first_token_told || ended.ttft_us() != 0);
    if (!over->first_token_told) { tell("ttft", ended.ttft_us(), over->placed.ttft_seconds); }
    tell("tpot", ended.tpot_us(), over->placed.tpot_seconds);
    if (over->placed.answer_tokens > 0) {
        const double tokens = over->first_token_told ? tokens_of_answer(*over, ended.tpot_us()) : 0;
        fair_share_.charge(over->placed.tenant, 0, tokens - over->placed.answer_tokens);
        if (tokens > 0) { answer_tokens_ += (tokens - answer_tokens_) / kAnswersRemembered; }
    }
    return true;
}

proto::WorkerState ModelPool::worker_state(std::size_t slot, const WorkerView& worker, base::TimePoint now) const {
    proto::WorkerState state;
    *state.mutable_endpoint() = registry_.registration(slot).endpoint();
    state.set_role(registry_.registration(slot).role());
    state.set_state(std::string(status_name(worker.status)));
    *state.mutable_load() = registry_.load(slot);
    state.set_heartbeat_age_us(static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(registry_.heartbeat_age(slot, now)).count()));
    return state;
}

proto::ModelState ModelPool::state(base::TimePoint now) {
    struct Phase {
        bool exists = false;
        bool ready = false;
        std::uint64_t tokens = 0;  // of the largest worker
        void add(const WorkerView& worker, std::uint64_t capacity) {
            exists = true;
            ready = ready || worker.status == WorkerStatus::ready || worker.status == WorkerStatus::ejected;
            tokens = std::max(tokens, capacity);
        }
    };
    proto::ModelState state;
    state.set_model(model_);
    state.set_numerics_id(numerics_id(now));
    Phase prefill;
    Phase decode;
    Phase encode;
    const std::span<const WorkerView> workers = registry_.view(now);
    for (std::size_t slot = 0; slot < workers.size(); ++slot) {
        const WorkerView& worker = workers[slot];
        if (worker.status == WorkerStatus::gone) { continue; }
        *state.add_workers() = worker_state(slot, worker, now);
        if (worker.role == Role::encode) {
            encode.add(worker, worker.limits.context_tokens);
            continue;
        }
        state.set_block_tokens(worker.limits.block_tokens);
        if (worker.numerics_id != state.numerics_id() && !options_.rules.allow_mixed_numerics) { continue; }
        if (can_prefill(worker)) { prefill.add(worker, tokens_capacity(worker)); }
        if (can_decode(worker)) { decode.add(worker, tokens_capacity(worker)); }
    }
    const bool generates = prefill.exists || decode.exists;
    const std::uint64_t context = !generates       ? encode.tokens
                                  : prefill.exists ? std::min(prefill.tokens, decode.tokens)
                                                   : decode.tokens;
    state.set_context_tokens(static_cast<std::uint32_t>(context));
    state.set_ready((generates || encode.exists) && (!generates || (prefill.ready && decode.ready)) &&
                    (!encode.exists || encode.ready));
    return state;
}

base::Result<Registry::Enrolled> ModelPool::enroll(const proto::RegisterWorker& registration, base::TimePoint now) {
    auto enrolled = registry_.enroll(registration, now);
    if (!enrolled) { return enrolled; }
    const base::WorkerId id = enrolled->life.id;
    if (enrolled->replaced) { predictor_.forget(id); }
    registry_.set_costs(id, predictor_.costs(id, registry_.role(*registry_.slot_of(id))));
    return enrolled;
}

Registry::Heard ModelPool::hear(Registry::Life life, const proto::Heartbeat& heartbeat, base::TimePoint now) {
    const Registry::Heard heard = registry_.hear(life, heartbeat, now);
    if (heard.fresh) { learn(life, heartbeat); }
    return heard;
}

void ModelPool::learn(Registry::Life life, const proto::Heartbeat& heartbeat) {
    const auto slot = registry_.slot_of(life.id);
    CHECK(slot.has_value());
    const Role role = registry_.role(*slot);
    const auto tell = [this](std::string_view kind, const std::optional<double>& ratio) {
        if (ratio) { metrics_.prediction(kind, *ratio); }
    };
    for (int i = 0; i < std::min(kSamplesMax, heartbeat.steps_size()); ++i) {
        const base::StepFit::Ratios ratios = predictor_.observe_step(life.id, role, heartbeat.steps(i));
        tell("prefill_step", ratios.prefill);
        tell("decode_step", ratios.decode);
    }
    for (int i = 0; i < std::min(kSamplesMax, heartbeat.transfers_size()); ++i) {
        tell("transfer", predictor_.observe_transfer(life.id, role, heartbeat.transfers(i)));
    }
    registry_.set_costs(life.id, predictor_.costs(life.id, role));
}

bool ModelPool::leave(Registry::Life life) {
    if (!registry_.leave(life)) { return false; }
    predictor_.forget(life.id);
    return true;
}

std::vector<Registry::Life> ModelPool::expire(base::TimePoint now) {
    std::vector<Registry::Life> gone = registry_.expire(now);
    for (const Registry::Life& life : gone) {
        predictor_.forget(life.id);
    }
    return gone;
}

std::optional<proto::WorkerState> ModelPool::drain(Registry::Life life, base::TimePoint now) {
    if (!registry_.ask_drain(life)) { return std::nullopt; }
    const std::size_t slot = *registry_.slot_of(life.id);
    return worker_state(slot, registry_.view(now)[slot], now);
}

void ModelPool::tell_metrics(base::TimePoint now) {
    metrics_.cluster(registry_.view(now));
    for (std::uint32_t tenant = 0; tenant < tenants_.names().size(); ++tenant) {
        metrics_.tenant(tenants_.names()[tenant], tenant, registry_.in_flight().placements_of(TenantId{tenant}),
                        fair_share_.counter(TenantId{tenant}), now);
    }
}

}  // namespace scheduler
