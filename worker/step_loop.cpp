#include "worker/step_loop.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "worker/check_start.h"

namespace worker {
namespace {

using base::ErrorCode;

constexpr std::chrono::milliseconds kIdleWait{50};
constexpr std::chrono::minutes kStepMax{10};  // a step that takes longer hangs

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

}  // namespace

StepLoop::StepLoop(Options options, engine::Engine& engine, kv_cache::KvCache& cache, OutputSink& sink,
                   ReportBoard& board, const base::Clock& clock, base::Metrics& metrics)
    : options_(std::move(options)),
      engine_(engine),
      cache_(cache),
      sink_(sink),
      board_(board),
      clock_(clock),
      commands_(options_.limits.commands_max),
      tasks_(options_.tasks_max),
      reporter_(board, metrics, {options_.model, options_.worker, options_.role}) {
    publish_board();
    board_.set_waker([this] { commands_.wake(); });
}

StepLoop::~StepLoop() {
    board_.set_waker({});
}

void StepLoop::attach(Part part, RolePart* role_part) {
    parts_[static_cast<std::size_t>(part)] = role_part;
}

bool StepLoop::post_command(Command command) {
    if (std::holds_alternative<StartRequest>(command) && commands_.size() * 2 >= commands_.capacity()) { return false; }
    return commands_.push(std::move(command));
}

bool StepLoop::post(std::function<void()> task) {
    if (!tasks_.push(std::move(task))) { return false; }
    commands_.wake();
    return true;
}

void StepLoop::run(std::stop_token stop) {
    while (!stop.stop_requested()) {
        if (!turn()) { commands_.wait(stop, next_wake()); }
    }
    while (!sequences_.empty()) {
        finish(*sequences_.back(), Finish::error, base::Error{ErrorCode::unavailable, "the worker is shutting down"});
    }
    flush_outputs();
    // Transfers that still read or write blocks end on their own deadlines or aborts; their events arrive as commands.
    const base::TimePoint give_up = clock_.now() + options_.limits.handoff_timeout;
    const auto busy = [this] {
        return std::any_of(parts_, parts_ + 3, [](RolePart* p) { return p != nullptr && p->busy(); });
    };
    while (busy() && clock_.now() < give_up) {
        run_tasks();
        for (RolePart* part : parts_) {
            if (part != nullptr) { part->tick(); }
        }
        commands_.wait({}, clock_.now() + std::chrono::milliseconds(5));
    }
    commands_.close();
    tasks_.close();
}

bool StepLoop::run_tasks() {
    const std::vector<std::function<void()>> tasks = tasks_.drain();
    for (const std::function<void()>& task : tasks) {
        task();
    }
    return !tasks.empty();
}

bool StepLoop::turn() {
    std::vector<Command> commands = commands_.drain();
    for (Command& command : commands) {
        apply(command);
    }
    const bool had_tasks = run_tasks();
    expire_deadlines();
    for (RolePart* part : parts_) {
        if (part != nullptr) { part->tick(); }
    }
    admit_waiting();
    flush_outputs();
    const bool has_work = std::any_of(sequences_.begin(), sequences_.end(),
                                      [](const auto& s) { return s->state == SequenceState::running; });
    if (has_work) { step(); }
    flush_outputs();
    const bool more_to_publish = publish_board();
    return has_work || had_tasks || !commands.empty() || more_to_publish;
}

void StepLoop::apply(Command& command) {
    if (auto* start_request = std::get_if<StartRequest>(&command)) {
        start(std::move(*start_request));
    } else if (const auto* continue_request = std::get_if<ContinueRequest>(&command)) {
        go_on(*continue_request);
    } else if (const auto* cancel = std::get_if<CancelRequest>(&command)) {
        Sequence* sequence = find(cancel->key);
        if (sequence != nullptr && sequence->request.gateway == cancel->gateway) {
            spdlog::debug("request {:016x} cancelled: {}", base::raw(cancel->key.request),
                          base::log_safe(cancel->reason));
            finish(*sequence, Finish::cancelled, std::nullopt);
        }
    } else {
        const GatewayGone& gone = std::get<GatewayGone>(command);
        for (std::size_t i = sequences_.size(); i > 0; --i) {
            if (sequences_[i - 1]->request.gateway == gone.gateway) {
                finish(*sequences_[i - 1], Finish::cancelled, std::nullopt);
            }
        }
        outputs_.erase(gone.gateway);
    }
}

void StepLoop::refuse(const StartRequest& request, ErrorCode code, std::string message) {
    SequenceOutput output;
    output.key = request.key;
    output.finish = Finish::error;
    output.error = base::Error{code, std::move(message)};
    outputs_[request.gateway].push_back(std::move(output));
}

void StepLoop::start(StartRequest&& request) {
    if (draining_) { return refuse(request, ErrorCode::unavailable, "the worker is draining"); }
    if (parts_[static_cast<std::size_t>(request.part)] == nullptr) {
        return refuse(request, ErrorCode::failed_precondition,
                      "a worker with role " + std::string(role_name(options_.role)) + " does not run this part");
    }
    if (by_key_.contains(request.key)) { return refuse(request, ErrorCode::aborted, "this attempt runs already"); }
    if (sequences_.size() >= options_.limits.queue_requests_max) {
        return refuse(request, ErrorCode::resource_exhausted,
                      "the worker holds " + std::to_string(sequences_.size()) + " requests, its limit");
    }
    if (auto error = check_start(request, engine_.shape(), cache_)) {
        return refuse(request, error->code, error->message);
    }
    for (std::size_t i = sequences_.size(); i > 0; --i) {  // an older attempt that its gateway has given up
        const RequestKey& other = sequences_[i - 1]->request.key;
        if (other.request == request.key.request && other.epoch < request.key.epoch) {
            finish(*sequences_[i - 1], Finish::cancelled, std::nullopt);
        }
    }

    auto sequence = std::make_unique<Sequence>();
    sequence->id = base::SequenceId{next_sequence_++};
    sequence->prompt_tokens = size32(request.prompt.size());
    sequence->tokens = request.prompt;
    sequence->tokens.insert(sequence->tokens.end(), request.generated.begin(), request.generated.end());
    sequence->request = std::move(request);
    sequence->state = sequence->request.part == Part::decode ? SequenceState::awaiting_kv : SequenceState::waiting;
    extend_chain(*sequence);
    look_up_prefix(*sequence);
    Sequence& placed = *sequence;
    by_key_.emplace(placed.request.key, &placed);
    sequences_.push_back(std::move(sequence));
    part_of(placed)->started(placed);
}

void StepLoop::go_on(const ContinueRequest& request) {
    Sequence* sequence = find(request.key);
    if (sequence == nullptr || sequence->request.gateway != request.gateway ||
        sequence->state != SequenceState::awaiting_kv) {
        return;  // late or not ours
    }
    const auto invalid = [&](std::string message) {
        finish(*sequence, Finish::error, base::Error{ErrorCode::invalid_argument, std::move(message)});
    };
    const std::uint32_t known = sequence->generated_tokens();
    if (request.generated.size() <= known) { return invalid("Continue brings no new token"); }
    if (!std::equal(request.generated.begin(), request.generated.begin() + known,
                    sequence->tokens.begin() + sequence->prompt_tokens)) {
        return invalid("Continue does not begin with the tokens of Start");
    }
    if (sequence->prompt_tokens + request.generated.size() >= engine_.shape().context_tokens ||
        request.generated.size() >= sequence->request.stop.new_tokens_max) {
        return invalid("Continue leaves nothing to generate");
    }
    for (std::size_t i = known; i < request.generated.size(); ++i) {
        const base::TokenId token = request.generated[i];
        if (token < 0 || static_cast<std::uint32_t>(token) >= engine_.shape().vocabulary) {
            return invalid("token id " + std::to_string(token) + " is outside the vocabulary");
        }
        sequence->tokens.push_back(token);
    }
    extend_chain(*sequence);
    part_of(*sequence)->continued(*sequence);
}

void StepLoop::expire_deadlines() {
    const base::TimePoint now = clock_.now();
    for (std::size_t i = sequences_.size(); i > 0; --i) {
        Sequence& sequence = *sequences_[i - 1];
        if (sequence.request.deadline && now >= *sequence.request.deadline) {
            finish(sequence, Finish::error,
                   base::Error{ErrorCode::deadline_exceeded, "the request's deadline has passed"});
        }
    }
}

engine::Batch StepLoop::build_batch(const std::vector<Planned>& planned) {
    engine::Batch batch = std::move(spare_batch_);
    batch.clear();
    launched_chunks_.clear();
    for (std::size_t i = 0; i < planned.size(); ++i) {
        const Sequence& sequence = *planned[i].sequence;
        const std::span<const base::TokenId> tokens(sequence.tokens);
        const std::span<const base::TokenId> news = tokens.subspan(sequence.computed_tokens, planned[i].tokens);
        engine::BatchEntry& entry = batch.add();
        entry.sequence = sequence.id;
        entry.tokens.assign(news.begin(), news.end());
        entry.position = sequence.computed_tokens;
        entry.set_blocks(sequence.kv->blocks());
        entry.sample = planned[i].samples;
        const std::uint32_t generated = sequence.generated_tokens();
        engine::SamplerContext sampler{.params = &sequence.request.sampling,
                                       .position = tokens.size(),
                                       .prompt = tokens.first(sequence.prompt_tokens),
                                       .generated = tokens.subspan(sequence.prompt_tokens)};
        if (generated < sequence.request.stop.new_tokens_min) {
            sampler.masked_tokens = sequence.request.stop.stop_tokens;
        }
        entry.sampler.assign(sampler);
        const std::uint32_t end = sequence.computed_tokens + planned[i].tokens;
        if (sequence.wants_prompt_scores() && sequence.computed_tokens + 1 < sequence.prompt_tokens && generated == 0) {
            // The last token of the prompt has no successor in it: its score is of a stand-in and is not kept.
            entry.score = true;
            entry.score_targets.assign(news.begin() + 1, news.end());
            entry.score_targets.push_back(end < sequence.prompt_tokens ? tokens[end] : tokens.back());
        }
        if (sequence.request.part == Part::prefill) {
            launched_chunks_.push_back({sequence.request.key, sequence.computed_tokens, end});
        }
    }
    return batch;
}

std::vector<StepShare> StepLoop::shares_of(const std::vector<Planned>& planned) {
    std::vector<StepShare> shares;
    shares.reserve(planned.size());
    for (const Planned& entry : planned) {
        shares.push_back({entry.tokens, entry.sequence->computed_tokens, entry.samples});
    }
    return shares;
}

void StepLoop::step() {
    std::vector<Planned> planned;
    {
        std::vector<PlanCandidate> candidates;
        std::vector<Sequence*> runnable;
        for (const auto& sequence : sequences_) {
            if (sequence->state != SequenceState::running) { continue; }
            runnable.push_back(sequence.get());
            candidates.push_back({sequence->tokens_left()});
        }
        const WorkerOptions& limits = options_.limits;
        const auto plan = plan_batch(candidates, {.sequences_max = limits.batch_sequences_max,
                                                  .tokens_max = limits.batch_tokens_max,
                                                  .chunk_tokens_max = limits.chunk_tokens_max,
                                                  .decode_rotation = rotation_ % size32(candidates.size())});
        if (plan.size() < candidates.size()) { rotation_ += size32(plan.size()); }
        for (const PlanEntry& entry : plan) {
            Sequence& sequence = *runnable[entry.candidate];
            planned.push_back({&sequence, entry.tokens, entry.tokens == sequence.tokens_left()});
        }
    }
    // Memory for what the step writes. A sequence that finds none gives way (or makes a later one give way).
    for (const Planned& entry : planned) {
        Sequence& sequence = *entry.sequence;
        if (sequence.state != SequenceState::running) { continue; }  // preempted for an earlier one
        if (!reserve_for(sequence, sequence.computed_tokens + entry.tokens) &&
            sequence.state == SequenceState::running) {
            finish(sequence, Finish::error,
                   base::Error{ErrorCode::resource_exhausted, "the KV pool is too small for this sequence"});
        }
    }
    std::erase_if(planned, [this](const Planned& entry) {
        const bool alive =
            std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& s) { return s.get() == entry.sequence; });
        return !alive || entry.sequence->state != SequenceState::running;
    });
    if (planned.empty()) { return; }

    RolePart* prefill_part = parts_[static_cast<std::size_t>(Part::prefill)];
    engine::Batch batch = build_batch(planned);
    engine::LayersDone layers_done;
    if (prefill_part != nullptr && !launched_chunks_.empty()) {
        layers_done = [this, prefill_part](std::uint32_t begin, std::uint32_t end) {
            prefill_part->layers_done(launched_chunks_, begin, end);
        };
    }
    const base::TimePoint launched = clock_.now();
    const engine::Ticket ticket = engine_.launch(std::move(batch), std::move(layers_done));
    publish_board();  // overlaps the step
    auto result = engine_.collect(ticket, std::chrono::steady_clock::now() + kStepMax);
    board_.note_progress(clock_.now());
    if (!result) {
        step_failed(planned, result.error());
        return;
    }
    CHECK(result->entries.size() == planned.size());
    spare_batch_ = std::move(result->batch);
    reporter_.note_step(shares_of(planned), clock_.now() - launched);
    for (std::size_t i = 0; i < planned.size(); ++i) {
        if (result->entries[i].error) {
            finish(*planned[i].sequence, Finish::error, result->entries[i].error);
        } else {
            apply_result(planned[i], result->entries[i]);
        }
    }
}

void StepLoop::step_failed(const std::vector<Planned>& planned, base::Error error) {
    spdlog::error("{}: step failed: {}", options_.worker, error.message);
    if (error.code == ErrorCode::internal || error.code == ErrorCode::deadline_exceeded) {
        lose_device(error);
        return;
    }
    for (const Planned& entry : planned) {
        finish(*entry.sequence, Finish::error, error);
    }
}

/// The device stays lost for this process: whatever waits here can only be done elsewhere.
void StepLoop::lose_device(const base::Error& error) {
    begin_drain();
    board_.set_draining();
    while (!sequences_.empty()) {
        finish(*sequences_.back(), Finish::error,
               base::Error{ErrorCode::unavailable, "the worker has lost its device: " + error.message});
    }
    if (std::exchange(device_lost_, true) || !options_.device_lost) { return; }
    options_.device_lost(error);
}

void StepLoop::apply_result(Planned& planned, engine::EntryResult& result) {
    Sequence& sequence = *planned.sequence;
    sequence.computed_tokens += planned.tokens;
    publish(sequence);
    for (engine::SampledToken& score : result.scores) {
        if (sequence.prompt_scores.size() + 1 < sequence.prompt_tokens) {
            sequence.prompt_scores.push_back(std::move(score));
        }
    }
    if (!planned.samples) { return; }
    CHECK(result.sampled.has_value());

    const base::TokenId token = result.sampled->token;
    sequence.tokens.push_back(token);
    extend_chain(sequence);
    const std::uint32_t generated = sequence.generated_tokens();
    const StopRules& stop = sequence.request.stop;

    SequenceOutput output;
    output.tokens.push_back(std::move(*result.sampled));
    if (!sequence.output_started) { output.prompt_scores = std::move(sequence.prompt_scores); }
    const bool is_stop = generated > stop.new_tokens_min &&
                         std::find(stop.stop_tokens.begin(), stop.stop_tokens.end(), token) != stop.stop_tokens.end();
    const bool is_full = generated >= stop.new_tokens_max || sequence.tokens.size() >= engine_.shape().context_tokens;
    if (is_stop || is_full) {
        output.finish = is_stop ? Finish::stop : Finish::length;
        emit(sequence, std::move(output));
        part_of(sequence)->closing(sequence);
        erase(sequence);
        return;
    }
    emit(sequence, std::move(output));
    sequence.output_started = true;
    if (sequence.request.part == Part::prefill) { sequence.state = SequenceState::handing_over; }
    part_of(sequence)->sampled(sequence);
}

void StepLoop::extend_chain(Sequence& sequence) {
    const std::uint32_t block_tokens = cache_.options().block_tokens;
    const std::size_t full = sequence.tokens.size() / block_tokens;
    if (sequence.chain.size() >= full) { return; }
    const base::HashScope scope{.cache_scope = sequence.request.cache_scope,
                                .numerics_id = static_cast<std::uint64_t>(engine_.numerics_id()),
                                .adapter = "",
                                .block_tokens = block_tokens};
    base::BlockHash link = sequence.chain.empty() ? base::chain_root(options_.hash_key, scope) : sequence.chain.back();
    const std::span<const base::TokenId> tokens(sequence.tokens);
    while (sequence.chain.size() < full) {
        link = base::chain_next(options_.hash_key, link,
                                tokens.subspan(sequence.chain.size() * block_tokens, block_tokens));
        sequence.chain.push_back(link);
    }
}

void StepLoop::publish(Sequence& sequence) {
    const std::uint32_t full = sequence.computed_tokens / cache_.options().block_tokens;
    if (full <= sequence.published_blocks) { return; }
    CHECK(sequence.chain.size() >= full);
    sequence.kv->publish(std::span(sequence.chain).first(full));
    sequence.published_blocks = full;
}

Sequence* StepLoop::find(RequestKey key) {
    const auto at = by_key_.find(key);
    return at == by_key_.end() ? nullptr : at->second;
}

void StepLoop::finish(Sequence& sequence, Finish finish, std::optional<base::Error> error) {
    SequenceOutput output;
    output.finish = finish;
    output.error = std::move(error);
    emit(sequence, std::move(output));
    part_of(sequence)->closing(sequence);
    erase(sequence);
}

void StepLoop::make_running(Sequence& sequence) {
    CHECK(sequence.kv.has_value() && sequence.tokens_left() > 0);
    sequence.state = SequenceState::running;
}

void StepLoop::add_transfer_sample(std::uint64_t bytes, base::Duration duration) {
    sluice::proto::TransferSample sample;
    sample.set_bytes(bytes);
    sample.set_duration_us(
        static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(duration).count()));
    board_.add_transfer(sample);
}

void StepLoop::emit(const Sequence& sequence, SequenceOutput output) {
    output.key = sequence.request.key;
    if (!sequence.output_started) {
        output.cached_tokens = sequence.cached_tokens;
        output.kv_path = sequence.kv_path;
    }
    outputs_[sequence.request.gateway].push_back(std::move(output));
}

void StepLoop::erase(Sequence& sequence) {
    by_key_.erase(sequence.request.key);
    const auto at =
        std::find_if(sequences_.begin(), sequences_.end(), [&](const auto& s) { return s.get() == &sequence; });
    CHECK(at != sequences_.end());
    sequences_.erase(at);
}

void StepLoop::flush_outputs() {
    for (auto& [gateway, outputs] : outputs_) {
        if (!outputs.empty()) { sink_.deliver(gateway, std::move(outputs)); }
    }
    outputs_.clear();
}

bool StepLoop::publish_board() {
    const bool more = reporter_.publish(sequences_, cache_, clock_.now());
    const bool parts_busy = std::any_of(parts_, parts_ + 3, [](RolePart* p) { return p != nullptr && p->busy(); });
    idle_ = sequences_.empty() && !parts_busy;
    return more;
}

base::TimePoint StepLoop::next_wake() const {
    base::TimePoint wake = clock_.now() + kIdleWait;
    for (const RolePart* part : parts_) {
        if (part == nullptr) { continue; }
        if (const auto tick = part->next_tick()) { wake = std::min(wake, *tick); }
    }
    for (const auto& sequence : sequences_) {
        if (sequence->request.deadline) { wake = std::min(wake, *sequence->request.deadline); }
    }
    return wake;
}

}  // namespace worker
