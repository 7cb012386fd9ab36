#include "worker/messages.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "proto/errors.h"
#include "proto/header.h"

namespace worker {
namespace {

using base::ErrorCode;

void write_token(const engine::SampledToken& token, sluice::proto::TokenOutput& message) {
    message.set_token(token.token);
    message.set_logprob(token.logprob);
    for (const engine::TokenLogprob& other : token.top) {
        auto* entry = message.add_top();
        entry->set_token(other.token);
        entry->set_logprob(other.logprob);
    }
}

std::uint32_t as_us(base::Duration duration) {
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(us, 0, std::numeric_limits<std::uint32_t>::max()));
}

void write_times(const PartTimes& times, sluice::proto::PartTrace& message) {
    message.set_total_us(as_us(times.total));
    message.set_memory_us(as_us(times.memory));
    message.set_turn_us(as_us(times.turn));
    message.set_kv_us(as_us(times.kv));
    message.set_preempted_us(as_us(times.preempted));
    message.set_recomputed_us(as_us(times.recomputed));
    message.set_steps_us(as_us(times.steps));
    message.set_others_us(as_us(times.others));
    message.set_alone_us(as_us(times.alone));
    message.set_steps(times.step_count);
    message.set_prompt_tokens(times.prompt_tokens);
    message.set_batch(times.batch);
}

Peer peer_of(const sluice::proto::WorkerEndpoint& endpoint) {
    return {base::WorkerId{endpoint.worker_id()}, base::Incarnation{endpoint.incarnation()}, endpoint.kv_address()};
}

std::optional<engine::GrammarKind> grammar_kind(sluice::proto::Grammar::Kind kind) {
    switch (kind) {
        case sluice::proto::Grammar::KIND_JSON_SCHEMA:
            return engine::GrammarKind::json_schema;
        case sluice::proto::Grammar::KIND_JSON_OBJECT:
            return engine::GrammarKind::json_object;
        case sluice::proto::Grammar::KIND_REGEX:
            return engine::GrammarKind::regex;
        case sluice::proto::Grammar::KIND_CHOICE:
            return engine::GrammarKind::choice;
        case sluice::proto::Grammar::KIND_LARK:
            return engine::GrammarKind::lark;
        default:
            return std::nullopt;
    }
}

sluice::proto::SequenceOutput::Finish finish_message(Finish finish) {
    switch (finish) {
        case Finish::none:
            return sluice::proto::SequenceOutput::FINISH_NONE;
        case Finish::stop:
            return sluice::proto::SequenceOutput::FINISH_STOP;
        case Finish::length:
            return sluice::proto::SequenceOutput::FINISH_LENGTH;
        case Finish::handed_over:
            return sluice::proto::SequenceOutput::FINISH_HANDED_OVER;
        case Finish::error:
            return sluice::proto::SequenceOutput::FINISH_ERROR;
        case Finish::cancelled:
            return sluice::proto::SequenceOutput::FINISH_CANCELLED;
    }
    return sluice::proto::SequenceOutput::FINISH_ERROR;
}

}  // namespace

sluice::proto::Header make_header(const WorkerIdentity& identity) {
    return proto::make_header(identity.model, identity.numerics_id);
}

sluice::proto::WorkerEndpoint make_endpoint(const WorkerIdentity& identity) {
    sluice::proto::WorkerEndpoint endpoint;
    endpoint.set_worker_id(base::raw(identity.worker));
    endpoint.set_incarnation(base::raw(identity.incarnation));
    endpoint.set_control_address(identity.control_address);
    endpoint.set_kv_address(identity.kv_address);
    return endpoint;
}

base::Result<void> check_header(const sluice::proto::Header& header, const WorkerIdentity& identity) {
    proto::ExpectedHeader expected{.model = identity.model};
    if (header.numerics_id() != 0) { expected.numerics_id = identity.numerics_id; }
    return proto::check_header(header, expected);
}

base::Result<StartRequest> read_start(const sluice::proto::Start& start, GatewayId gateway, const base::Clock& clock) {
    StartRequest request;
    request.key = {base::RequestId{start.request_id()}, base::Epoch{start.epoch()}};
    request.gateway = gateway;
    switch (start.part()) {
        case sluice::proto::Start::PART_PREFILL:
            request.part = Part::prefill;
            break;
        case sluice::proto::Start::PART_DECODE:
            request.part = Part::decode;
            break;
        case sluice::proto::Start::PART_WHOLE:
            request.part = Part::whole;
            break;
        case sluice::proto::Start::PART_ENCODE:
            request.part = Part::encode;
            break;
        default:
            return base::fail(ErrorCode::invalid_argument, "Start.part is missing");
    }
    const bool is_split = request.part == Part::prefill || request.part == Part::decode;
    if (is_split && start.peer().incarnation() == 0) {
        return base::fail(ErrorCode::invalid_argument, "Start.peer is missing for a split request");
    }
    request.prompt.assign(start.prompt().begin(), start.prompt().end());
    request.generated.assign(start.generated().begin(), start.generated().end());

    const sluice::proto::Sampling& sampling = start.sampling();
    request.sampling.temperature = sampling.temperature();
    request.sampling.top_k = sampling.top_k();
    request.sampling.top_p = sampling.top_p();
    request.sampling.min_p = sampling.min_p();
    request.sampling.repetition_penalty = sampling.repetition_penalty();
    request.sampling.presence_penalty = sampling.presence_penalty();
    request.sampling.frequency_penalty = sampling.frequency_penalty();
    request.sampling.seed = sampling.seed();
    request.sampling.choice = sampling.choice();
    for (const auto& [token, bias] : sampling.logit_bias()) {
        request.sampling.logit_bias.emplace_back(token, bias);
    }
    std::sort(request.sampling.logit_bias.begin(), request.sampling.logit_bias.end());
    request.sampling.logprobs = sampling.logprobs();
    request.sampling.top_logprobs = sampling.top_logprobs();
    request.sampling.prompt_logprobs = sampling.prompt_logprobs();

    request.stop.stop_tokens.assign(start.stop().stop_token_ids().begin(), start.stop().stop_token_ids().end());
    request.stop.new_tokens_max = start.stop().new_tokens_max();
    request.stop.new_tokens_min = start.stop().new_tokens_min();
    request.cache_scope = start.cache_scope();
    if (!start.tenant().empty()) { request.tenant = start.tenant(); }
    if (start.deadline_in_us() != 0) { request.deadline = base::deadline_in(start.deadline_in_us(), clock.now()); }
    if (start.first_token_in_us() != 0) {
        request.slo.first_token = base::deadline_in(start.first_token_in_us(), clock.now());
    }
    request.slo.tpot = std::chrono::microseconds(start.tpot_target_us());
    request.priority = start.priority();
    request.tenant_tokens = std::isfinite(start.tenant_tokens()) ? start.tenant_tokens() : 0;
    request.session = start.session();
    request.session_ends = start.session_ends();
    request.explain = start.explain();
    if (start.has_grammar()) {
        const auto kind = grammar_kind(start.grammar().kind());
        if (!kind) { return base::fail(ErrorCode::invalid_argument, "Start.grammar is of a kind that is not known"); }
        request.grammar = engine::GrammarSpec{*kind, start.grammar().text()};
    }
    if (start.has_reasoning()) {
        const sluice::proto::Reasoning& given = start.reasoning();
        base::ReasoningRule& rule = request.reasoning.emplace();
        rule.begin = given.begin_token();
        rule.end = given.end_token();
        rule.is_begun = given.is_begun();
        if (given.has_tokens_max()) { rule.tokens_max = given.tokens_max(); }
    }
    if (!start.traceparent().empty()) { request.trace_context = base::parse_traceparent(start.traceparent()); }
    request.peer = peer_of(start.peer());
    request.kv_mode = start.kv_mode();
    request.allow_lossy_kv = start.allow_lossy_kv();
    if (start.has_kv_source() && start.kv_source().worker().incarnation() != 0) {
        const sluice::proto::KvSource& source = start.kv_source();
        request.kv_source = KvSource{
            peer_of(source.worker()),
            source.kv_tokens() == 0 ? std::numeric_limits<std::uint32_t>::max() : source.kv_tokens(), std::nullopt};
        if (source.give_up_in_us() != 0) {
            request.kv_source->give_up = base::deadline_in(source.give_up_in_us(), clock.now());
        }
    }
    return request;
}

ContinueRequest read_continue(const sluice::proto::Continue& message, GatewayId gateway) {
    return {{base::RequestId{message.request_id()}, base::Epoch{message.epoch()}},
            gateway,
            {message.tokens().begin(), message.tokens().end()}};
}

CancelRequest read_cancel(const sluice::proto::Cancel& message, GatewayId gateway) {
    return {{base::RequestId{message.request_id()}, base::Epoch{message.epoch()}}, gateway, message.reason()};
}

void write_output(const SequenceOutput& output, sluice::proto::SequenceOutput& message) {
    message.set_request_id(base::raw(output.key.request));
    message.set_epoch(base::raw(output.key.epoch));
    for (const engine::SampledToken& token : output.tokens) {
        write_token(token, *message.add_tokens());
    }
    for (const engine::SampledToken& token : output.prompt_scores) {
        write_token(token, *message.add_prompt());
    }
    message.set_finish(finish_message(output.finish));
    if (output.error) { proto::set_error(*message.mutable_error(), *output.error); }
    message.set_cached_tokens(output.cached_tokens);
    message.set_kv_path(output.kv_path);
    message.set_kv_codec(output.kv_codec);
    message.mutable_vector()->Assign(output.vector.begin(), output.vector.end());
    if (output.times) { write_times(*output.times, *message.mutable_trace()); }
}

}  // namespace worker
