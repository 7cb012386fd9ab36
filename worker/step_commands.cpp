// What gateways ask of the step loop; the contract stands in step_loop.h.
#include <algorithm>
#include <utility>

#include "base/log.h"
#include "worker/check_start.h"
#include "worker/step_loop.h"

namespace worker {

using base::ErrorCode;

bool StepLoop::apply_commands() {
    std::vector<Command> commands = commands_.drain();
    for (Command& command : commands) {
        apply(command);
    }
    return !commands.empty();
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
    } else if (const auto* drop = std::get_if<DropRequest>(&command)) {
        const std::uint32_t blocks = cache_.drop_prefixes();
        for (RolePart* helper : helpers_) {
            helper->dropped();
        }
        spdlog::info("{} blocks of prefixes were dropped on request", blocks);
        drop->done(blocks);
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
    const auto is_same = [&](const auto& ended) { return ended->request.key == request.key; };
    // The running step still writes the KV of one that has just ended: to its hand-off both would be the same.
    const bool has_just_ended = running_ && std::any_of(running_->ended.begin(), running_->ended.end(), is_same);
    if (by_key_.contains(request.key) || has_just_ended) {
        return refuse(request, ErrorCode::aborted, "this attempt runs already");
    }
    if (sequences_.size() >= options_.limits.queue_requests_max) {
        return refuse(request, ErrorCode::resource_exhausted,
                      "the worker holds " + std::to_string(sequences_.size()) + " requests, its limit");
    }
    const bool encodes = request.part == Part::encode;
    if (auto error = encodes ? check_text(request, engine_.shape()) : check_start(request, engine_.shape(), cache_)) {
        return refuse(request, error->code, error->message);
    }
    if (request.grammar && (encodes || options_.grammars == nullptr)) {
        return refuse(request, ErrorCode::unimplemented, "this worker makes no text that keeps to a grammar");
    }
    for (std::size_t i = sequences_.size(); i > 0; --i) {  // an older attempt that its gateway has given up
        const RequestKey& other = sequences_[i - 1]->request.key;
        if (other.request == request.key.request && other.epoch < request.key.epoch) {
            finish(*sequences_[i - 1], Finish::cancelled, std::nullopt);
        }
    }

    auto sequence = std::make_unique<Sequence>();
    sequence->id = base::SequenceId{next_sequence_++};
    sequence->prompt_tokens = static_cast<std::uint32_t>(request.prompt.size());
    sequence->tokens = request.prompt;
    sequence->tokens.insert(sequence->tokens.end(), request.generated.begin(), request.generated.end());
    sequence->request = std::move(request);
    sequence->accepted = clock_.now();
    sequence->state = sequence->request.part == Part::decode ? SequenceState::awaiting_kv : SequenceState::waiting;
    if (encodes) {
        sequence->state = SequenceState::running;
        next_.reset();  // it may be part of that step
    } else {
        extend_chain(*sequence);
        look_up_prefix(*sequence);
        if (sequence->state == SequenceState::waiting) { sequence->waits_since = sequence->accepted; }
    }
    if (sequence->request.grammar) {
        sequence->grammar = options_.grammars->begin(*sequence->request.grammar, [this] { commands_.wake(); });
    }
    Sequence& placed = *sequence;
    if (placed.request.explain && placed.state != SequenceState::awaiting_kv) {
        placed.trace.begin(placed.accepted, encodes ? SequenceTrace::Wait::turn : SequenceTrace::Wait::memory);
    }
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
    // Behind the token that prefill sampled: what a grammar forced there.
    const std::uint32_t more = sequence->generated_tokens() - known - 1;
    if (sequence->grammar != nullptr) { sequence->forced_tokens = std::min(more, options_.limits.forced_tokens_max); }
    extend_chain(*sequence);
    sequence->begin_schedule(clock_.now());
    if (sequence->request.explain) {
        const auto wait = sequence->kv ? SequenceTrace::Wait::kv : SequenceTrace::Wait::memory;
        sequence->trace.begin(clock_.now(), wait);
    }
    part_of(*sequence)->continued(*sequence);
}

}  // namespace worker
