// What a sequence's owner tells its workers; the contract stands in generation.h.
#include <utility>

#include "gateway/request/generation.h"
#include "gateway/request/microseconds.h"

namespace gateway {

void Generation::send_start(const proto::WorkerEndpoint& to, proto::Start::Part part,
                            const proto::WorkerEndpoint* peer) {
    proto::WorkerCommand command;
    proto::Start& start = *command.mutable_start();
    start.set_request_id(base::raw(id_));
    start.set_epoch(base::raw(epoch_));
    start.set_part(part);
    start.mutable_prompt()->Assign(request_.prompt->begin(), request_.prompt->end());
    start.mutable_generated()->Assign(generated_.begin(), generated_.end());
    *start.mutable_sampling() = request_.sampling;
    if (prompt_told_) { start.mutable_sampling()->set_prompt_logprobs(false); }
    start.mutable_stop()->mutable_stop_token_ids()->Assign(request_.stop_tokens.begin(), request_.stop_tokens.end());
    start.mutable_stop()->set_new_tokens_max(request_.new_tokens_max);
    start.mutable_stop()->set_new_tokens_min(request_.new_tokens_min);
    start.set_cache_scope(request_.cache_scope);
    start.set_tenant(request_.tenant);
    start.set_tenant_tokens(tenant_tokens_);
    start.set_priority(request_.slo.priority);
    start.set_session(hint_name(context_.hash_key, HintKind::session, request_.tenant, request_.hints.session));
    start.set_session_ends(request_.hints.ends);
    start.set_explain(record_.is_on());
    start.set_traceparent(request_.traceparent);
    if (request_.grammar != nullptr) { *start.mutable_grammar() = *request_.grammar; }
    if (request_.reasoning && (request_.reasoning->tokens_max || request_.grammar != nullptr)) {
        proto::Reasoning& reasoning = *start.mutable_reasoning();
        reasoning.set_begin_token(request_.reasoning->begin);
        reasoning.set_end_token(request_.reasoning->end);
        reasoning.set_is_begun(request_.reasoning->is_begun);
        if (request_.reasoning->tokens_max) { reasoning.set_tokens_max(*request_.reasoning->tokens_max); }
    }
    start.set_scheduler_epoch(scheduler_epoch_);
    if (const auto due = first_token_due(context_.clock.now())) {
        start.set_first_token_in_us(base::time_left_us(*due, context_.clock.now()));
    }
    if (request_.slo.targets.tpot > base::Duration::zero()) {
        start.set_tpot_target_us(as_us(request_.slo.targets.tpot));
    }
    if (request_.deadline) { start.set_deadline_in_us(base::time_left_us(*request_.deadline, context_.clock.now())); }
    if (peer != nullptr) {
        *start.mutable_peer() = *peer;
        *start.mutable_kv_mode() = kv_mode_;
        start.set_allow_lossy_kv(request_.slo.allow_lossy_kv);
    }
    if (kv_source_ && part != proto::Start::PART_DECODE) { *start.mutable_kv_source() = *kv_source_; }
    context_.workers.send(context_.model, to, std::move(command));
}

void Generation::send_continue() {
    proto::WorkerCommand command;
    command.mutable_go_on()->set_request_id(base::raw(id_));
    command.mutable_go_on()->set_epoch(base::raw(epoch_));
    command.mutable_go_on()->mutable_tokens()->Assign(generated_.begin(), generated_.end());
    context_.workers.send(context_.model, decode_, std::move(command));
}

void Generation::send_cancel(const proto::WorkerEndpoint& to, std::string_view reason) {
    proto::WorkerCommand command;
    command.mutable_cancel()->set_request_id(base::raw(id_));
    command.mutable_cancel()->set_epoch(base::raw(epoch_));
    command.mutable_cancel()->set_reason(std::string(reason));
    context_.workers.send(context_.model, to, std::move(command));
}

}  // namespace gateway
