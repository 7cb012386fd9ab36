#include "worker/step_loop.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"

namespace worker {
namespace {

constexpr std::chrono::seconds kIdleWait{1};  // to show that we live; whatever has to be done sooner wakes the loop

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
      reporter_(cache, board, metrics, {options_.model, options_.worker, options_.role}) {
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

bool StepLoop::work() {
    freed_ = false;
    bool is_news = apply_commands();
    is_news = run_tasks() || is_news;
    is_news = expire_deadlines() || is_news;
    each_part([](RolePart& part) { part.tick(); });
    give_memory();
    if (running_ && !next_ && !others_give_way_) { next_ = plan_step(); }
    return is_news || more_to_publish_;
}

void StepLoop::settle() {
    // Counted first: whoever has an answer finds it in the metrics.
    if (unreported_) {
        reporter_.note_step(unreported_->shares, unreported_->duration, unreported_->idle_before);
        forecast_.note_step(unreported_->shares, unreported_->duration);
    }
    unreported_.reset();
    flush_outputs();
    publish_all();
    publish_board();
}

void StepLoop::publish_all() {
    for (const auto& sequence : sequences_) {
        if (sequence->kv) { publish(*sequence); }
    }
}

void StepLoop::end_all() {
    CHECK(!running_);
    begin_drain();
    while (!sequences_.empty()) {
        finish(*sequences_.back(), Finish::error,
               base::Error{base::ErrorCode::unavailable, "the worker is shutting down"});
    }
    each_part([](RolePart& part) { part.ending(); });
}

bool StepLoop::parts_busy() const {
    bool busy = false;
    each_part([&busy](const RolePart& part) { busy = busy || part.busy(); });
    return busy;
}

void StepLoop::close() {
    begin_drain();
    commands_.close();
    tasks_.close();
    apply_commands();
    flush_outputs();
}

bool StepLoop::run_tasks() {
    const std::vector<std::function<void()>> tasks = tasks_.drain();
    for (const std::function<void()>& task : tasks) {
        task();
    }
    return !tasks.empty();
}

bool StepLoop::expire_deadlines() {
    const base::TimePoint now = clock_.now();
    bool any = false;
    for (std::size_t i = sequences_.size(); i > 0; --i) {
        Sequence& sequence = *sequences_[i - 1];
        if (!sequence.request.deadline || now < *sequence.request.deadline) { continue; }
        finish(sequence, Finish::error,
               base::Error{base::ErrorCode::deadline_exceeded, "the request's deadline has passed"});
        any = true;
    }
    return any;
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
    extend_chain(sequence);
    sequence.kv->publish(std::span(sequence.chain).first(full));
    sequence.published_blocks = full;
    for (RolePart* helper : helpers_) {
        helper->published(sequence);
    }
}

void StepLoop::leave(Sequence& sequence, bool for_good) {
    if (!sequence.kv) { return; }
    publish(sequence);
    if (for_good && sequence.request.session_ends) { sequence.kv->give_up_first(); }
    for (RolePart* helper : helpers_) {
        helper->leaving(sequence, for_good);
    }
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
    end(sequence);
}

void StepLoop::end(Sequence& sequence) {
    part_of(sequence)->closing(sequence);
    for (RolePart* helper : helpers_) {
        helper->closing(sequence);
    }
    if (sequence.step_tokens == 0) {
        leave(sequence, true);
    } else if (sequence.kv) {
        publish(sequence);  // it leaves with the step
    }
    next_.reset();
    freed_ = true;
    by_key_.erase(sequence.request.key);
    const auto at =
        std::find_if(sequences_.begin(), sequences_.end(), [&](const auto& s) { return s.get() == &sequence; });
    CHECK(at != sequences_.end());
    std::unique_ptr<Sequence> owned = std::move(*at);
    sequences_.erase(at);
    owned->state = SequenceState::ended;
    owned->grammar.reset();
    if (owned->step_tokens == 0) { return; }
    RunningStep& step = running_ ? *running_ : *given_up_;
    step.ended.push_back(std::move(owned));
}

void StepLoop::make_running(Sequence& sequence) {
    CHECK(sequence.kv.has_value() && sequence.tokens_left() > 0);
    sequence.state = SequenceState::running;
    if (sequence.trace.is_on()) { sequence.trace.wait_for(SequenceTrace::Wait::turn, clock_.now()); }
    next_.reset();
}

std::optional<base::Duration> StepLoop::predict_prefill(std::uint32_t computed_tokens, std::uint32_t tokens) const {
    return forecast_.predict_prefill(computed_tokens, tokens, options_.limits.batch_tokens_max);
}

void StepLoop::add_transfer_sample(const MeasuredHandoff& handoff) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(handoff.waited).count();
    sluice::proto::TransferSample sample;
    sample.set_bytes(std::uint64_t{handoff.tokens} * engine_.layout().bytes_per_token());
    sample.set_duration_us(
        static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, MeasuredHandoff::kToldMinUs, UINT32_MAX)));
    sample.set_others(handoff.others);
    board_.add_transfer(sample);
}

void StepLoop::tell_load_price(std::size_t level, double seconds_per_token) {
    board_.set_load_price(level, load_price_ns(seconds_per_token));
}

void StepLoop::emit(Sequence& sequence, SequenceOutput output) {
    output.key = sequence.request.key;
    if (output.finish != Finish::none && options_.spans != nullptr && sequence.request.trace_context) {
        tell_span(sequence, output.finish, output.error);
    }
    // Of the first output, and of what may turn out late when it leaves.
    if (sequence.trace.is_on() && (!sequence.output_started || sequence.request.slo.tpot > base::Duration::zero())) {
        output.times = sequence.trace.take(clock_.now());
        output.times->tpot_target = sequence.output_started ? sequence.request.slo.tpot : base::Duration::zero();
    }
    if (!sequence.output_started) {
        output.cached_tokens = sequence.cached_tokens;
        output.kv_path = sequence.kv_path;
        output.kv_codec = sequence.kv_codec;
    }
    outputs_[sequence.request.gateway].push_back(std::move(output));
}

void StepLoop::tell_span(const Sequence& sequence, Finish finish, const std::optional<base::Error>& error) const {
    static constexpr std::array<const char*, kParts> kNames = {"worker prefill", "worker decode", "worker",
                                                               "worker encode"};
    static constexpr std::array<const char*, 6> kEnds = {"", "stop", "length", "handed_over", "error", "cancelled"};
    const StartRequest& request = sequence.request;
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(clock_.now() - sequence.accepted);
    base::Span span;
    span.context = *request.trace_context;
    span.parent = std::exchange(span.context.span, base::random_span_id());
    span.name = kNames[static_cast<std::size_t>(request.part)];
    span.kind = base::Span::Kind::server;
    span.end_unix_us = clock_.unix_us();
    span.begin_unix_us = span.end_unix_us - took.count();
    const auto generated_here = sequence.generated_tokens() - request.generated.size();
    span.attributes = {{"sluice.worker", options_.worker},
                       {"gen_ai.request.model", options_.model},
                       {"sluice.sequence.epoch", static_cast<std::int64_t>(base::raw(request.key.epoch))},
                       {"sluice.prompt_tokens", static_cast<std::int64_t>(sequence.prompt_tokens)},
                       {"sluice.cached_tokens", static_cast<std::int64_t>(sequence.cached_tokens)},
                       {"sluice.generated_tokens", static_cast<std::int64_t>(generated_here)},
                       {"sluice.finish", std::string(kEnds[static_cast<std::size_t>(finish)])}};
    if (!sequence.kv_path.empty()) { span.attributes.push_back({"sluice.kv_path", sequence.kv_path}); }
    if (error) { span.error = error->message; }
    options_.spans->add(std::move(span));
}

void StepLoop::flush_outputs() {
    std::optional<base::TimePoint> now;
    for (auto& [gateway, outputs] : outputs_) {
        for (SequenceOutput& output : outputs) {
            if (!output.times) { continue; }
            if (!now) { now = clock_.now(); }
            output.times->total = *now - output.times->since;
            if (output.times->total <= output.times->tpot_target) { output.times.reset(); }  // in time
        }
        if (!outputs.empty()) { sink_.deliver(gateway, std::move(outputs)); }
    }
    outputs_.clear();
}

void StepLoop::publish_board() {
    // News is no progress of the step that runs: where that hangs, whoever asks must not keep the worker alive for
    // others.
    more_to_publish_ = reporter_.publish(sequences_, running_ ? running_->launched : clock_.now());
    const bool is_idle = sequences_.empty() && !running_ && !parts_busy();
    if (is_idle == idle_) { return; }
    {
        const std::scoped_lock lock(idle_mutex_);
        idle_ = is_idle;
    }
    idle_changed_.notify_all();
}

bool StepLoop::wait_idle(base::TimePoint give_up) const {
    std::unique_lock lock(idle_mutex_);
    return idle_changed_.wait_until(lock, give_up, [this] { return idle_.load(); });
}

base::TimePoint StepLoop::next_wake() const {
    if (freed_ || more_to_publish_) { return clock_.now(); }
    base::TimePoint wake = clock_.now() + std::min<base::Duration>(kIdleWait, options_.limits.stall_limit / 4);
    each_part([&wake](const RolePart& part) {
        if (const auto tick = part.next_tick()) { wake = std::min(wake, *tick); }
    });
    for (const auto& sequence : sequences_) {
        if (sequence->request.deadline) { wake = std::min(wake, *sequence->request.deadline); }
    }
    return wake;
}

}  // namespace worker
