#include "sim/serving.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/check.h"
#include "sim/chance.h"
#include "sim/serving_run.h"

namespace sim {
namespace {

constexpr base::Duration kTick = std::chrono::seconds(1);
/// Events before one of which something is asked for that it will read: one after the other, since each names the next.
constexpr std::size_t kNodeAhead = 7;
constexpr std::size_t kStateAhead = 4;
constexpr std::size_t kSequencesAhead = 1;

std::size_t workers_of(const ServingOptions& options) {
    std::size_t workers = 0;
    for (const ServingPool& pool : options.pools) {
        workers += pool.count;
    }
    return workers;
}

scheduler::SchedulerOptions scheduler_options(const ServingOptions& options) {
    scheduler::SchedulerOptions scheduler = options.scheduler;
    // Bounds that an operator sizes for his cluster.
    scheduler.workers_max = std::max(scheduler.workers_max, static_cast<std::uint32_t>(workers_of(options)));
    scheduler.placements_max = std::max(scheduler.placements_max, 1'000'000u);
    return scheduler;
}

/// Workers of the roles, in order: "decode-3" is the fourth for decode.
base::Result<std::uint32_t> worker_named(const ServingOptions& options, const std::string& name,
                                         std::mt19937_64& random) {
    const std::size_t dash = name.rfind('-');
    std::uint32_t wanted = 0;
    const char* const end = name.data() + name.size();
    const bool is_numbered = dash != std::string::npos &&
                             std::from_chars(name.data() + dash + 1, end, wanted).ptr == end && dash + 1 < name.size();
    if (name == "any") { return static_cast<std::uint32_t>(random() % workers_of(options)); }
    std::uint32_t index = 0;
    for (const ServingPool& pool : options.pools) {
        for (std::uint32_t i = 0; i < pool.count; ++i, ++index) {
            if (!is_numbered || proto::role_name(pool.role) != std::string_view(name).substr(0, dash)) { continue; }
            if (wanted-- == 0) { return index; }
        }
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      "a fault's target \"" + name + "\" is no worker of the plan: as in prefill-0, mixed-2, any");
}

base::Result<void> check_input(const ServingOptions& options, const ServingTrace& trace) {
    const auto invalid = [](const std::string& why) { return base::fail(base::ErrorCode::invalid_argument, why); };
    bool prefills = false;
    bool decodes = false;
    for (const ServingPool& pool : options.pools) {
        if (pool.role == proto::Role::encode) { return invalid("workers that encode cannot be simulated"); }
        CHECK(pool.times != nullptr && pool.count > 0);
        if (pool.kv_tokens < 2.0 * trace.block_tokens || pool.kv_tokens / trace.block_tokens > 4e9) {
            return invalid("a pool with KV for " + std::to_string(static_cast<std::uint64_t>(pool.kv_tokens)) +
                           " tokens cannot hold two blocks of " + std::to_string(trace.block_tokens));
        }
        for (const KvLevel& level : pool.levels) {
            CHECK(level.kv_bytes_per_token > 0 && level.load_bytes_per_second > 0 && level.save_bytes_per_second > 0);
            if (level.kv_tokens < trace.block_tokens) {
                return invalid("a level \"" + level.name + "\" with room for " +
                               std::to_string(static_cast<std::uint64_t>(level.kv_tokens)) +
                               " tokens cannot hold a block of " + std::to_string(trace.block_tokens));
            }
        }
        prefills = prefills || proto::can_prefill(pool.role);
        decodes = decodes || proto::can_decode(pool.role);
    }
    if (!decodes || !prefills) { return invalid("the plan has no worker for prefill, or none for decode"); }
    if (workers_of(options) > kServingWorkersMax) {
        return invalid("more than " + std::to_string(kServingWorkersMax) + " workers");
    }
    double last = 0;
    for (const ServedRequest& request : trace.requests) {
        if (request.prompt_tokens == 0 || request.output_tokens == 0 || !(request.arrival_s >= last)) {
            return invalid("requests need tokens, and have to be in order of arrival");
        }
        CHECK(request.first_block + request.blocks <= trace.blocks.size());
        last = request.arrival_s;
    }
    return {};
}

}  // namespace

base::Result<ServingResult> simulate_serving(const ServingOptions& options, const ServingTrace& trace) {
    if (const auto fine = check_input(options, trace); !fine) { return base::pass_on(fine); }
    std::mt19937_64 random(options.seed ^ 0xfa017);
    std::vector<std::uint32_t> targets;
    for (const Fault& fault : options.faults) {
        if (is_of_scheduler(fault.kind)) {
            if (!is_scheduler(options.policy)) {
                return base::fail(base::ErrorCode::invalid_argument,
                                  std::string("a fault of the scheduler, and the policy ") +
                                      std::string(policy_name(options.policy)) + " has none");
            }
            targets.push_back(0);
            continue;
        }
        const auto target = worker_named(options, fault.target, random);
        if (!target) { return base::pass_on(target); }
        targets.push_back(*target);
    }
    return ServingRun(options, trace, std::move(targets)).play();
}

ServingRun::ServingRun(const ServingOptions& options, const ServingTrace& trace, std::vector<std::uint32_t> targets)
    : options_(options),
      trace_(trace),
      targets_(std::move(targets)),
      random_(options.seed),
      placer_(options.policy, scheduler_options(options), clock_, workers_of(options)),
      owner_(options, trace, placer_, *this, clock_, result_),
      events_(kServingWorkersMax) {
    result_.outcomes.resize(trace.requests.size());
    result_.counts.steps_each.resize(workers_of(options));
    nodes_.resize(workers_of(options));
    std::size_t index = 0;
    for (const ServingPool& pool : options.pools) {
        for (std::uint32_t i = 0; i < pool.count; ++i) {
            nodes_[index++].pool = &pool;
        }
    }
}

ServingResult ServingRun::play() {
    begin_leaders();
    for (std::uint32_t worker = 0; worker < nodes_.size(); ++worker) {
        make_worker(worker);
        attach(worker, nodes_[worker].life);
    }
    push(clock_.now() + kTick, {.kind = Event::Kind::tick, .key = {}});
    for (std::uint32_t fault = 0; fault < options_.faults.size(); ++fault) {
        ++faults_left_;
        push(VirtualClock::at(options_.faults[fault].at_s), {.kind = Event::Kind::fault, .worker = fault, .key = {}});
    }
    if (!trace_.requests.empty()) {
        push(VirtualClock::at(trace_.requests[0].arrival_s), {.kind = Event::Kind::arrival, .key = {}});
    }
    const auto is_over = [this] {
        return next_arrival_ == trace_.requests.size() && owner_.open() == 0 && (!options_.checks || faults_left_ == 0);
    };
    while (!is_over() && !result_.violation) {
        const Event event = events_.pop();
        fetch_ahead();
        clock_.set(events_.now());
        ++result_.counts.events;
        happen(event);
        run_marked();
        if (options_.checks) { check(event.worker); }
    }
    placer_.flush();
    if (options_.checks && !result_.violation && placer_.placements() > 0) {
        result_.violation = std::to_string(placer_.placements()) + " placements are never given back";
    }
    for (const Node& node : nodes_) {
        if (!node.worker) { continue; }
        count_work_of(*node.worker);
        if (options_.checks && !result_.violation && node.worker->sequences() > 0 && !node.is_cut) {
            result_.violation = "worker " + std::to_string(node.worker->options().index) +
                                " still has a sequence: " + node.worker->first_sequence();
        }
    }
    result_.ended_s = VirtualClock::seconds(clock_.now());
    return std::move(result_);
}

/// Of the workers whose steps end, or who report, next: of the later ones what the sooner ones need to fetch more. What
/// one names is there when it is looked at: an event takes about as long as memory does.
void ServingRun::fetch_ahead() const {
    const auto node_of = [this](std::size_t number) -> const Node* {
        const Event* event = events_.soon(number);
        const bool is_of_worker =
            event != nullptr && (event->kind == Event::Kind::step_end || event->kind == Event::Kind::heartbeat);
        return is_of_worker ? &nodes_[event->worker] : nullptr;
    };
    if (const Node* node = node_of(kNodeAhead)) { __builtin_prefetch(node); }
    if (const Node* node = node_of(kStateAhead); node != nullptr && node->worker) {
        __builtin_prefetch(node->sequences);
        node->worker->fetch_state();
    }
    if (const Node* node = node_of(kSequencesAhead); node != nullptr && node->worker) {
        node->worker->fetch_sequences(false);
    }
}

void ServingRun::count_work_of(const ModelledWorker& worker) {
    result_.counts.steps += worker.steps();
    result_.counts.steps_each[worker.options().index] += worker.steps();
    result_.counts.preemptions += worker.preemptions();
    result_.counts.busy_seconds += worker.busy_seconds();
    result_.counts.levels += worker.level_use();
}

/// A worker as it is now: to be called before it is looked at or asked for anything.
ModelledWorker& ServingRun::up_to_date(Node& node) {
    const std::uint64_t before = node.worker->steps();
    node.worker->pass_quiet_steps(clock_.now());
    const std::uint64_t passed = node.worker->steps() - before;
    result_.counts.quiet_steps += passed;
    result_.counts.events += passed;
    return *node.worker;
}

/// The next end of a step at which something may happen. Who was asked for something since his step began has an event
/// that is too late; it finds that it is not awaited any more.
void ServingRun::await_step(std::uint32_t worker) {
    Node& node = nodes_[worker];
    const base::TimePoint at = node.worker->quiet_until();
    if (at == node.step_awaited) { return; }
    node.step_awaited = at;
    node.sequences = node.worker->list_of_sequences();
    events_.push_as(worker, at, {Event::Kind::step_end, worker, {}, node.life});
}

/// The end of the copy that runs to or from a level; of nobody's interest once another one is awaited.
void ServingRun::await_copy(std::uint32_t worker) {
    Node& node = nodes_[worker];
    const auto at = node.worker->next_copy_end();
    if (!at || *at == node.copy_awaited) { return; }
    node.copy_awaited = *at;
    push(*at, {Event::Kind::copy_end, worker, {}, node.life});
}

void ServingRun::end_copy(std::uint32_t worker, std::uint64_t life) {
    Node& node = nodes_[worker];
    if (!node.worker || node.life != life || node.copy_awaited != clock_.now()) { return; }
    node.copy_awaited = {};
    up_to_date(node).end_copies();
    mark(worker);
}

void ServingRun::happen(const Event& event) {
    switch (event.kind) {
        case Event::Kind::arrival:
            return arrive(event.key.request);
        case Event::Kind::step_end:
            return end_step(event.worker, event.number);
        case Event::Kind::look:
            return look(event.worker, event.number);
        case Event::Kind::copy_end:
            return end_copy(event.worker, event.number);
        case Event::Kind::heartbeat:
            if (nodes_[event.worker].next_report == clock_.now()) { report(event.worker); }
            return;
        case Event::Kind::attach:
            return attach(event.worker, event.number);
        case Event::Kind::tick:
            for (const std::uint32_t worker : placer_.tick()) {
                // Its stream was closed under it: it attaches again as soon as it can.
                if (reaches(worker)) { push(clock_.now(), {Event::Kind::attach, worker, {}, nodes_[worker].life}); }
            }
            return push(clock_.now() + kTick, event);
        case Event::Kind::wake:
            return owner_.on_time(event.key);
        case Event::Kind::failed:
            return owner_.on_failed(event.worker, event.key, static_cast<base::ErrorCode>(event.number));
        case Event::Kind::relay:
            return relay(event.key);
        case Event::Kind::kv_arrived:
            return kv_arrived(event.key);
        case Event::Kind::kv_overdue: {
            Node& node = nodes_[event.worker];
            if (!node.worker || node.life != event.number || !up_to_date(node).awaits_kv(event.key)) { return; }
            ++result_.counts.recomputed;
            node.worker->recompute(event.key, clock_.now());
            return mark(event.worker);
        }
        case Event::Kind::handoff_overdue: {
            const auto at = hand_offs_.find(event.key);
            if (at == hand_offs_.end()) { return; }
            Node& node = nodes_[at->second.prefill];
            if (node.worker && node.life == at->second.prefill_life) {
                up_to_date(node).handed_over(event.key);
                mark(at->second.prefill);
            }
            owner_.on_handed_over(event.key);
            hand_offs_.erase(at);
            return;
        }
        case Event::Kind::host_end:
            if (host_awaited_ != clock_.now()) { --result_.counts.events; }
            return;  // whoever runs is given what has become free with the event
        case Event::Kind::fault:
            return begin_fault(event.worker);
        case Event::Kind::fault_end:
            --faults_left_;
            return end_fault(event.worker);
        case Event::Kind::stream_lost:
            if (nodes_[event.worker].is_cut && nodes_[event.worker].cuts == event.number) { lose_stream(event.worker); }
            return;
    }
}

void ServingRun::arrive(std::uint32_t request) {
    next_arrival_ = request + 1;
    if (next_arrival_ < trace_.requests.size()) {
        push(VirtualClock::at(trace_.requests[next_arrival_].arrival_s),
             {.kind = Event::Kind::arrival, .key = {next_arrival_, 0}});
    }
    owner_.arrive(request);
}

void ServingRun::mark(std::uint32_t worker) {
    if (!std::exchange(nodes_[worker].is_dirty, true)) { marked_.push_back(worker); }
}

/// Whoever has news admits, and computes what there is to compute.
void ServingRun::run_marked() {
    while (!marked_.empty()) {
        const std::uint32_t index = marked_.back();
        marked_.pop_back();
        Node& node = nodes_[index];
        node.is_dirty = false;
        if (!node.worker) { continue; }
        report_by(index, node.reported + options_.scheduler.heartbeat);
        ModelledWorker& worker = up_to_date(node);
        bool runs = worker.runs_step();
        if (runs) {
            worker.give_memory(clock_.now());
        } else {
            runs = worker.begin_step(clock_.now(), node.slowness).has_value();
            node.pace = 1;
        }
        if (!node.pool->levels.empty()) { await_copy(index); }
        if (runs) { await_step(index); }
    }
    if (options_.cores > 0) { share_cores(); }
}

void ServingRun::end_step(std::uint32_t worker, std::uint64_t life) {
    Node& node = nodes_[worker];
    if (!node.worker || node.life != life) { return; }
    if (node.step_awaited != clock_.now()) {
        --result_.counts.events;
        return;
    }
    node.step_awaited = {};  // an event for this very time may have been put in twice
    up_to_date(node).finish_step(clock_.now());
    add_host_work(options_.host.step_seconds);
    mark(worker);
}

void ServingRun::make_worker(std::uint32_t index) {
    Node& node = nodes_[index];
    const ServingPool& pool = *node.pool;
    const auto blocks = static_cast<std::uint32_t>(pool.kv_tokens / trace_.block_tokens);
    const double tokens = static_cast<double>(blocks) * trace_.block_tokens;
    node.worker = std::make_unique<ModelledWorker>(
        ModelledWorker::Options{
            .index = index,
            .role = pool.role,
            .times = pool.times,
            .limits = &pool.limits,
            .kv = {.blocks_total = blocks, .block_tokens = trace_.block_tokens},
            .context_tokens = static_cast<std::uint32_t>(std::min(tokens, 4e9)),
            .workspace = &workspace_,
            .tells_every_token = options_.tells_every_token(),
            .noise = options_.noise,
            .noise_seed = mixed_bits(mixed_bits(options_.seed) ^ incarnation_of(index, node.life)),
            .handing_seconds_per_token = options_.links.sender_seconds_per_token,
            .foresees_quiet_steps = options_.passes_quiet_steps && pool.levels.empty() && options_.cores == 0,
            .levels = pool.levels,
            .clock = &clock_,
            .metrics = &placer_.metrics()},
        *this);
}

void ServingRun::attach(std::uint32_t worker, std::uint64_t life) {
    Node& node = nodes_[worker];
    if (!node.worker || node.life != life || node.is_cut || placer_.is_attached(worker)) { return; }
    const auto bytes = static_cast<std::uint64_t>(std::max(1.0, options_.links.kv_bytes_per_token));
    if (!placer_.attach(*node.worker, incarnation_of(worker, life), bytes)) {
        return push(clock_.now() + kTick, {Event::Kind::attach, worker, {}, life});
    }
    node.worker->board().detach();
    node.worker->board().attach();
    // Each at another instant, as processes that were started one by one.
    const auto phase = std::chrono::nanoseconds(
        random_() % static_cast<std::uint64_t>(base::Duration(options_.scheduler.heartbeat).count()));
    node.next_report = clock_.now() + phase;
    node.reported = node.next_report;
    push(node.next_report, {Event::Kind::heartbeat, worker, {}, 0});
}

void ServingRun::report_by(std::uint32_t worker, base::TimePoint at) {
    Node& node = nodes_[worker];
    at = std::max(at, clock_.now());
    if (node.next_report <= at || !placer_.is_attached(worker)) { return; }
    node.next_report = at;
    push(at, {Event::Kind::heartbeat, worker, {}, 0});
}

void ServingRun::report(std::uint32_t worker) {
    Node& node = nodes_[worker];
    if (!node.worker || !placer_.is_attached(worker)) { return; }
    const base::Duration idle =
        std::max<base::Duration>(options_.scheduler.heartbeat, options_.scheduler.suspect_after / 2);
    if (reaches(worker) && placer_.hears()) {
        const bool has_news = up_to_date(node).report(clock_.now(), idle, placer_.new_heartbeat());
        if (has_news && placer_.hear(worker)) { node.worker->board().want_snapshot(); }
        if (gathers_since_) { gather(); }
    }
    node.reported = clock_.now();
    const bool is_busy = node.worker->runs_step() || node.worker->sequences() > 0;
    node.next_report = clock_.now() + (is_busy ? base::Duration(options_.scheduler.heartbeat) : idle);
    push(node.next_report, {Event::Kind::heartbeat, worker, {}, 0});
}

void ServingRun::check(std::uint32_t worker) {
    result_.violation = owner_.violation();
    if (!result_.violation && leaders_) { result_.violation = leaders_->violation(); }
    if (result_.violation) { return; }
    if (worker < nodes_.size() && nodes_[worker].worker) { result_.violation = nodes_[worker].worker->violation(); }
    std::size_t ended = 0;
    for (std::uint32_t request = 0; request < next_arrival_; ++request) {
        ended += result_.outcomes[request].ended_s >= 0;
    }
    if (ended + owner_.open() != next_arrival_) {
        result_.violation = std::to_string(next_arrival_) + " requests have come, " + std::to_string(ended) +
                            " have ended, " + std::to_string(owner_.open()) + " are open";
    }
}

}  // namespace sim
