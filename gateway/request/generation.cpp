#include "gateway/request/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "gateway/request/microseconds.h"
#include "gateway/request/retry_rules.h"
#include "proto/errors.h"
#include "proto/header.h"

namespace gateway {
namespace {

base::Incarnation incarnation_of(const proto::WorkerEndpoint& endpoint) {
    return base::Incarnation{endpoint.incarnation()};
}

/// What a client is told of an error of a worker or of the way to one. What is wrong with its own request it hears in
/// full; of the rest what it means for the request. Where it happened (addresses, files) is for the log.
base::Error for_client(const base::Error& error) {
    switch (error.code) {
        case base::ErrorCode::invalid_argument:
        case base::ErrorCode::unimplemented:
        case base::ErrorCode::resource_exhausted:
            return error;
        case base::ErrorCode::deadline_exceeded:
            return {error.code, "a worker did not answer in time"};
        case base::ErrorCode::data_loss:
        case base::ErrorCode::internal:
            return {error.code, "a worker failed while it served this request"};
        default:
            return {error.code, "the worker that served this request is gone, or cannot be reached"};
    }
}

SequenceRecorder::Doing doing_in(Generation::Phase phase) {
    switch (phase) {
        case Generation::Phase::prefill:
            return SequenceRecorder::Doing::prefill;
        case Generation::Phase::transfer:
            return SequenceRecorder::Doing::handoff;
        case Generation::Phase::decode:
            return SequenceRecorder::Doing::decode;
        default:
            return SequenceRecorder::Doing::placing;
    }
}

std::uint32_t as_ms(base::Duration duration) {
    return static_cast<std::uint32_t>(std::chrono::ceil<std::chrono::milliseconds>(duration).count());
}

}  // namespace

std::string_view phase_name(Generation::Phase phase) {
    switch (phase) {
        case Generation::Phase::prefill:
            return "prefill";
        case Generation::Phase::transfer:
            return "transfer";
        case Generation::Phase::decode:
        case Generation::Phase::ended:
            return "decode";
        default:
            return "queued";
    }
}

Generation::Generation(base::RequestId id, GenerationRequest request, GenerationSink& sink,
                       std::unique_ptr<Detokenizer> detokenizer, GenerationContext context)
    : id_(id),
      request_(std::move(request)),
      hashes_(request_.hashes),
      sink_(sink),
      text_(std::move(detokenizer), request_.text),
      context_(context) {
    CHECK(request_.prompt && !request_.prompt->empty());
    CHECK(request_.encodes || (request_.new_tokens_max > 0 && request_.new_tokens_min <= request_.new_tokens_max));
}

void Generation::start() {
    const base::TimePoint now = context_.clock.now();
    give_up_at_ = now + context_.options.place_wait_max;
    if (context_.options.keeps_timelines && !request_.encodes) {
        record_.begin(id_, request_.received_at, now, static_cast<std::uint32_t>(request_.prompt->size()),
                      request_.slo.targets);
    }
    place();
}

std::optional<base::TimePoint> Generation::wakes_at() const {
    if (ended()) { return std::nullopt; }
    std::optional<base::TimePoint> at = request_.deadline;
    if (const auto dropped = dropped_at(); dropped && (!at || *dropped < *at)) { at = dropped; }
    if (phase_ == Phase::waiting && try_at_ && (!at || *try_at_ < *at)) { at = try_at_; }
    return at;
}

void Generation::on_time() {
    if (ended()) { return; }
    const base::TimePoint now = context_.clock.now();
    if (request_.deadline && now >= *request_.deadline) {
        context_.metrics.cancelled(phase_name(phase_), "deadline");
        GenerationEnd result{.reason = EndReason::failed};
        result.error = {base::ErrorCode::deadline_exceeded, "the request was not finished within its time limit"};
        if (!request_.encodes) {
            result.error->message += "; " + std::to_string(generated_.size()) + " tokens were generated";
        }
        end(std::move(result), "deadline");
        return;
    }
    if (const auto at = dropped_at(); at && now >= *at) {
        context_.metrics.cancelled(phase_name(phase_), "late");
        GenerationEnd result{.reason = EndReason::failed};
        result.error = {base::ErrorCode::deadline_exceeded, "the first token was not there after " +
                                                                std::to_string(as_ms(request_.slo.targets.ttft)) +
                                                                " ms, its target, and requests of the class '" +
                                                                request_.slo.class_name + "' are given up then"};
        end(std::move(result), "late");
        return;
    }
    if (phase_ == Phase::waiting && try_at_ && now >= *try_at_) { place(); }
}

void Generation::place() {
    phase_ = Phase::placing;
    try_at_.reset();
    workers_known_ = false;
    epoch_tokens_ = 0;
    placed_at_ = context_.clock.now();
    record_.asks(placed_at_);

    // A stream that has begun goes on with the numerics it began with, so that its tokens stay bit-identical. One that
    // has not may be placed anywhere, however often it was asked for.
    const bool begun = !generated_.empty();
    const std::uint64_t numerics_id = begun ? numerics_id_ : context_.cluster.numerics_id;
    proto::PlaceRequest ask;
    *ask.mutable_header() = proto::make_header(context_.model, numerics_id);
    ask.set_request_id(base::raw(id_));
    ask.set_epoch(base::raw(epoch_));
    ask.set_begun(begun);
    ask.set_encode(request_.encodes);
    ask.set_tenant(request_.tenant);
    const SloTargets& targets = request_.slo.targets;
    ask.set_slo_class(request_.slo.class_name);
    ask.set_slo_ttft_ms(as_ms(targets.ttft));
    ask.set_allow_lossy_kv(request_.slo.allow_lossy_kv);
    ask.set_slo_tpot_ms(as_ms(targets.tpot));
    if (const auto due = first_token_due(placed_at_)) {
        ask.set_first_token_in_us(base::time_left_us(*due, placed_at_));
    }
    ask.set_scheduler_epoch(context_.scheduler_epoch);
    ask.set_prompt_tokens(static_cast<std::uint32_t>(request_.prompt->size() + generated_.size()));
    ask.set_new_tokens_max(request_.new_tokens_max - static_cast<std::uint32_t>(generated_.size()));
    if (hashes_.hold_for(numerics_id, context_.cluster.block_tokens)) {
        ask.set_block_hashes(hashes_.bytes(context_.hash_key, *request_.prompt, generated_));
    }
    const auto name = [&](HintKind kind, const std::string& text) {
        return hint_name(context_.hash_key, kind, request_.tenant, text);
    };
    ask.set_session(name(HintKind::session, request_.hints.session));
    ask.set_parent_session(name(HintKind::session, request_.hints.parent));
    ask.set_prompt_group(name(HintKind::prompt_group, request_.hints.prompt_group));
    ask.set_session_ends(request_.hints.ends);
    if (request_.deadline) { ask.set_deadline_in_us(base::time_left_us(*request_.deadline, placed_at_)); }
    for (const std::uint64_t worker : avoid_) {
        ask.add_avoid_workers(worker);
    }
    context_.scheduler.place(ask, context_.options.place_timeout);
}

std::optional<base::TimePoint> Generation::first_token_due(base::TimePoint now) const {
    const base::Duration ttft = request_.slo.targets.ttft;
    if (ttft == base::Duration::zero()) { return std::nullopt; }
    return (generated_.empty() ? request_.received_at : now) + ttft;
}

std::optional<base::TimePoint> Generation::dropped_at() const {
    const base::Duration ttft = request_.slo.targets.ttft;
    if (!request_.slo.drops_late || ttft == base::Duration::zero() || !generated_.empty() || request_.encodes) {
        return std::nullopt;
    }
    return request_.received_at + ttft;
}

bool Generation::on_place_answered(base::Epoch epoch, const base::Result<proto::PlaceReply>& reply) {
    if (phase_ != Phase::placing || epoch != epoch_) { return false; }
    if (!reply) {
        release(proto::ReleaseRequest::Ended::PHASE_ALL);  // the scheduler may have placed it and the answer was lost
        spdlog::info("request {:016x} epoch {}: no placement: {}", base::raw(id_), base::raw(epoch_),
                     base::log_safe(reply.error().message));
        if (is_retryable(reply.error().code)) {
            wait_for_place({base::ErrorCode::unavailable, "no answer from the scheduler"}, 1000);
        } else {
            fail({reply.error().code, "the scheduler failed"}, 0);
        }
        return true;
    }
    if (reply->has_placement()) {
        numerics_id_ = reply->header().numerics_id();
        scheduler_epoch_ = reply->scheduler_epoch();
        take_placement(reply->placement());
        return true;
    }
    base::Error error = reply->has_refusal() ? proto::error_of(reply->refusal().error())
                                             : base::Error{base::ErrorCode::internal, "empty placement reply"};
    std::uint32_t retry_after_ms = reply->refusal().retry_after_ms();
    if (error.code == base::ErrorCode::not_found) {
        // The gateway is configured to serve this model: that no worker does is no mistake of the client's.
        error.code = base::ErrorCode::unavailable;
        retry_after_ms = std::max<std::uint32_t>(retry_after_ms, 1000);
    }
    // A new request is refused at once; a stream that lost its worker waits for a place.
    if (!placed_once_ || !is_retryable(error.code)) {
        record_.refused(retry_after_ms > 0);
        fail(error, retry_after_ms);
        return true;
    }
    avoid_.clear();  // better the worker that failed once than none
    wait_for_place(error, retry_after_ms);
    return true;
}

void Generation::take_placement(const proto::Placement& placement) {
    ++placements_;
    const bool is_first = !std::exchange(placed_once_, true);
    split_ = placement.path() != "local" && placement.prefill().incarnation() != placement.decode().incarnation();
    decode_ = placement.has_decode() ? placement.decode() : placement.prefill();
    prefill_ = split_ ? placement.prefill() : decode_;
    tenant_tokens_ = placement.tenant_tokens();
    kv_mode_ = placement.kv_mode();
    kv_source_.reset();
    if (placement.has_kv_source()) { kv_source_ = placement.kv_source(); }
    workers_known_ = true;
    prefill_done_ = false;
    decode_done_ = false;
    epoch_tokens_ = 0;
    phase_ = Phase::prefill;
    give_up_at_.reset();
    if (record_.is_on()) { record_.placed(context_.clock.now(), placement, split_); }
    if (split_) {
        // Decode first, so that it knows the request when prefill asks it for room.
        send_start(decode_, proto::Start::PART_DECODE, &prefill_);
        send_start(prefill_, proto::Start::PART_PREFILL, &decode_);
    } else {
        send_start(decode_, request_.encodes ? proto::Start::PART_ENCODE : proto::Start::PART_WHOLE, nullptr);
    }
    if (is_first) { sink_.on_placed(); }
}

void Generation::on_output(base::Incarnation from, const proto::SequenceOutput& output) {
    if (ended() || base::Epoch{output.epoch()} != epoch_ || !workers_known_) { return; }  // late
    const bool from_decode = from == incarnation_of(decode_);
    const bool from_prefill = split_ ? from == incarnation_of(prefill_) : from_decode;
    if (!from_decode && !from_prefill) { return; }
    if (request_.encodes) {
        accept_vector(from, output);
        return;
    }
    const bool is_error = output.finish() == proto::SequenceOutput::FINISH_ERROR ||
                          output.finish() == proto::SequenceOutput::FINISH_CANCELLED;

    if (split_ && from_prefill && epoch_tokens_ > 0) {
        // Its token is out. Whether its KV arrives is decode's matter, which recomputes what does not come.
        if (output.finish() != proto::SequenceOutput::FINISH_NONE) { prefill_done_ = true; }
        return;
    }
    if (split_ && from_decode && epoch_tokens_ == 0) {  // before Continue it can only fail
        if (!is_error) { return; }
        decode_done_ = true;
        accept_finish(from, output);
        return;
    }

    if (split_ && from_decode) { note_kv(output); }
    if (from_prefill && !cached_known_) {
        cached_known_ = true;
        cached_tokens_ = std::min(output.cached_tokens(), static_cast<std::uint32_t>(request_.prompt->size()));
    }
    if (output.prompt_size() > 0 && !prompt_told_) {
        prompt_told_ = true;
        std::vector<TokenRecord> records;
        for (const proto::TokenOutput& one : output.prompt()) {
            TokenRecord& record =
                records.emplace_back(TokenRecord{.token = one.token(), .logprob = one.logprob(), .top = {}});
            for (const proto::TokenLogprob& top : one.top()) {
                record.top.emplace_back(top.token(), top.logprob());
            }
        }
        sink_.on_prompt(std::move(records));
        if (ended()) { return; }
    }
    if (output.finish() != proto::SequenceOutput::FINISH_NONE) {
        if (from_prefill) { prefill_done_ = true; }
        if (from_decode) { decode_done_ = true; }
    }
    const base::Epoch epoch = epoch_;
    const bool first_of_epoch = epoch_tokens_ == 0;
    for (const proto::TokenOutput& token : output.tokens()) {
        accept_token(token, output);
        if (ended()) { return; }
    }
    CHECK(epoch == epoch_);
    accept_finish(from, output);
    if (ended() || epoch != epoch_) { return; }
    if (split_ && first_of_epoch && epoch_tokens_ > 0) {
        phase_ = Phase::transfer;  // however many tokens a grammar forced behind the first one
        send_continue();
    }
}

/// How its KV came. After a loss of a worker it comes again: what was lossy once stays so.
void Generation::note_kv(const proto::SequenceOutput& output) {
    if (output.kv_path().empty() || is_lossy_label(kv_)) { return; }
    kv_ = output.kv_codec().empty() ? output.kv_path() : output.kv_codec();
}

void Generation::accept_token(const proto::TokenOutput& output, const proto::SequenceOutput& whole) {
    const base::TimePoint now = context_.clock.now();
    generated_.push_back(output.token());
    if (epoch_tokens_++ == 0) {
        first_token_at_ = now;
        phase_ = split_ ? Phase::transfer : Phase::decode;
        release(proto::ReleaseRequest::Ended::PHASE_PREFILL);
    } else {
        phase_ = Phase::decode;
    }
    if (generated_.size() > 1) { context_.metrics.inter_token(now - last_token_at_); }
    const auto count = static_cast<std::uint32_t>(generated_.size());
    // Tokens behind the first one of an output were forced by a grammar: they took no time.
    if (record_.is_on() && &output == &whole.tokens(0)) { record_.token(now, count, now - last_token_at_, whole); }
    if (!began_at_) { began_at_ = now; }
    last_token_at_ = now;

    const std::string_view path = cached_tokens_ > 0 ? "prefix_hit" : split_ ? "disagg" : "local";
    const auto& stops = request_.stop_tokens;
    const bool is_stop =
        count > request_.new_tokens_min && std::find(stops.begin(), stops.end(), output.token()) != stops.end();
    if (is_stop && !request_.text.include_stop_string) {
        // The token that ends a sequence is counted but not shown.
        GenerationEnd result{.reason = EndReason::stop};
        result.stop_token = asked_stop(output.token());
        sink_.on_piece(text_.finish(), count, path);
        if (!ended()) { end(std::move(result), "finished"); }
        return;
    }
    TokenRecord record{.token = output.token(), .logprob = output.logprob(), .top = {}};
    for (const proto::TokenLogprob& top : output.top()) {
        record.top.emplace_back(top.token(), top.logprob());
    }
    Piece piece = text_.push(std::move(record));
    const bool is_last = !text_.stopped() && (is_stop || count >= request_.new_tokens_max);
    if (is_last) {
        Piece rest = text_.finish();
        piece.text += rest.text;
        std::move(rest.tokens.begin(), rest.tokens.end(), std::back_inserter(piece.tokens));
    }
    sink_.on_piece(std::move(piece), count, path);
    if (ended()) { return; }
    if (auto stop = text_.stopped()) {
        if (count < request_.new_tokens_max) { context_.metrics.cancelled(phase_name(phase_), "stop_string"); }
        GenerationEnd result{.reason = EndReason::stop};
        result.stop_string = std::move(stop);
        end(std::move(result), "stop_string");
    } else if (is_last) {
        GenerationEnd result{.reason = is_stop ? EndReason::stop : EndReason::length};
        if (is_stop) { result.stop_token = asked_stop(output.token()); }
        end(std::move(result), "finished");
    }
}

std::optional<base::TokenId> Generation::asked_stop(base::TokenId token) const {
    const auto end = request_.stop_tokens.begin() + static_cast<std::ptrdiff_t>(request_.stop_tokens_asked);
    return std::find(request_.stop_tokens.begin(), end, token) == end ? std::nullopt : std::optional(token);
}

void Generation::accept_vector(base::Incarnation from, const proto::SequenceOutput& output) {
    if (output.finish() == proto::SequenceOutput::FINISH_NONE) { return; }
    prefill_done_ = true;
    decode_done_ = true;
    if (output.finish() != proto::SequenceOutput::FINISH_STOP || output.vector().empty()) {
        accept_finish(from, output);  // an error; without a vector the text is not finished
        return;
    }
    first_token_at_ = context_.clock.now();  // what was predicted is compared with this
    epoch_tokens_ = 1;
    sink_.on_vector({output.vector().begin(), output.vector().end()});
    if (!ended()) { end({.reason = EndReason::stop}, "finished"); }
}

void Generation::accept_finish(base::Incarnation from, const proto::SequenceOutput& output) {
    switch (output.finish()) {
        case proto::SequenceOutput::FINISH_STOP:
        case proto::SequenceOutput::FINISH_LENGTH: {
            if (generated_.empty()) {
                attempt_failed(from, {base::ErrorCode::data_loss,
                                      request_.encodes ? "a worker finished a text without a vector"
                                                       : "a worker finished a sequence without a token"});
                return;
            }
            sink_.on_piece(text_.finish(), static_cast<std::uint32_t>(generated_.size()), split_ ? "disagg" : "local");
            if (ended()) { return; }
            GenerationEnd result;
            result.reason = output.finish() == proto::SequenceOutput::FINISH_STOP ? EndReason::stop : EndReason::length;
            if (auto stop = text_.stopped()) {
                result.reason = EndReason::stop;
                result.stop_string = std::move(stop);
            }
            end(std::move(result), "finished");
            return;
        }
        case proto::SequenceOutput::FINISH_HANDED_OVER:
            if (epoch_tokens_ == 0) {
                attempt_failed(from, {base::ErrorCode::data_loss, "a worker handed over KV without a first token"});
            }
            return;
        case proto::SequenceOutput::FINISH_ERROR:
            attempt_failed(from, proto::error_of(output.error()));
            return;
        case proto::SequenceOutput::FINISH_CANCELLED:
            attempt_failed(from, {base::ErrorCode::aborted, "a worker cancelled the sequence"});
            return;
        default:
            return;
    }
}

void Generation::on_worker_lost(base::Incarnation worker, const base::Error& error) {
    if (ended() || !workers_known_) { return; }
    if (worker == incarnation_of(decode_)) {
        decode_done_ = true;
        if (!split_) { prefill_done_ = true; }
        attempt_failed(worker, error);
    } else if (split_ && worker == incarnation_of(prefill_)) {
        prefill_done_ = true;
        if (epoch_tokens_ == 0) { attempt_failed(worker, error); }
    }
}

void Generation::attempt_failed(base::Incarnation worker, const base::Error& error) {
    if (request_.deadline && context_.clock.now() >= *request_.deadline) {
        on_time();
        return;
    }
    record_.lost(context_.clock.now(), worker, error.code);
    const std::string_view code = base::error_code_name(error.code);
    const auto give_up = [&](const base::Error& told, std::uint32_t retry_after_ms) {
        base::warn_limited("request given up", "request {:016x} epoch {}: {} in phase {} ({} tokens), given up: {}",
                           base::raw(id_), base::raw(epoch_), code, phase_name(phase_), generated_.size(),
                           base::log_safe(error.message));
        fail(told, retry_after_ms);
    };
    if (!is_retryable(error.code)) { return give_up(for_client(error), 0); }
    if (placements_ >= context_.options.placements_max) {
        context_.metrics.retries_exhausted(code, "placements");
        return give_up(for_client(error), 1000);
    }
    if (!context_.retries.take(context_.clock.now())) {
        context_.metrics.retries_exhausted(code, "budget");
        return give_up(
            {base::ErrorCode::unavailable,
             "too many sequences have failed on workers lately to try this one again: " + for_client(error).message},
            1000);
    }
    spdlog::info("request {:016x} epoch {}: {} in phase {} ({} tokens), placing again: {}", base::raw(id_),
                 base::raw(epoch_), code, phase_name(phase_), generated_.size(), base::log_safe(error.message));
    context_.metrics.retried(code);
    close_epoch("replaced");
    epoch_ = base::Epoch{base::raw(epoch_) + 1};
    if (std::find(avoid_.begin(), avoid_.end(), base::raw(worker)) == avoid_.end()) {
        if (avoid_.size() == kAvoidMax) { avoid_.erase(avoid_.begin()); }
        avoid_.push_back(base::raw(worker));
    }
    give_up_at_ = context_.clock.now() + context_.options.replace_wait_max;
    place();
}

void Generation::wait_for_place(const base::Error& error, std::uint32_t retry_after_ms) {
    const base::TimePoint now = context_.clock.now();
    const base::Duration pause = retry_pause(retry_after_ms);
    if (!give_up_at_ || now + pause >= *give_up_at_) {
        fail(error, std::max<std::uint32_t>(retry_after_ms, 1000));
        return;
    }
    phase_ = Phase::waiting;
    epoch_ = base::Epoch{base::raw(epoch_) + 1};  // a late answer to this try must not be taken for the next one's
    try_at_ = now + pause;
}

void Generation::close_epoch(std::string_view reason) {
    if (!workers_known_) { return; }
    if (split_ && !prefill_done_) { send_cancel(prefill_, reason); }
    if (!decode_done_) { send_cancel(decode_, reason); }
    release(proto::ReleaseRequest::Ended::PHASE_ALL);
    workers_known_ = false;
}

void Generation::release(proto::ReleaseRequest::Ended::Phase phase) {
    proto::ReleaseRequest::Ended ended;
    ended.set_request_id(base::raw(id_));
    ended.set_epoch(base::raw(epoch_));
    ended.set_phase(phase);
    if (epoch_tokens_ > 0) { ended.set_ttft_us(as_us(first_token_at_ - placed_at_)); }
    if (epoch_tokens_ > 1) { ended.set_tpot_us(as_us((last_token_at_ - first_token_at_) / (epoch_tokens_ - 1))); }
    context_.scheduler.release(ended);
}

void Generation::cancel(std::string_view cause) {
    if (ended()) { return; }
    context_.metrics.cancelled(phase_name(phase_), cause);
    end({.reason = EndReason::cancelled}, cause);
}

void Generation::fail(base::Error error, std::uint32_t retry_after_ms) {
    GenerationEnd result{.reason = EndReason::failed};
    result.error = std::move(error);
    result.retry_after_ms = retry_after_ms;
    end(std::move(result), "failed");
}

void Generation::end(GenerationEnd result, std::string_view worker_reason) {
    CHECK(!ended(), "request " << base::raw(id_) << " would get a second final answer");
    close_epoch(worker_reason);
    const Phase phase = std::exchange(phase_, Phase::ended);
    if (generated_.size() > 1) {
        result.tpot = (last_token_at_ - *began_at_) / (generated_.size() - 1);
        context_.metrics.time_per_output_token(request_.slo.class_index, result.tpot);
    }
    result.first_token_at = began_at_;
    result.prompt_tokens = static_cast<std::uint32_t>(request_.prompt->size());
    result.cached_tokens = cached_tokens_;
    result.completion_tokens = static_cast<std::uint32_t>(generated_.size());
    result.kv = kv_;
    if (request_.reasoning) {
        base::ReasoningState reasoning(*request_.reasoning);
        reasoning.follow(generated_);
        result.reasoning_tokens = reasoning.tokens();
    }
    if (record_.is_on()) {
        const auto doing = result.reason == EndReason::failed ? doing_in(phase) : SequenceRecorder::Doing::nothing;
        result.timeline = record_.end(context_.clock.now(), result.completion_tokens, result.tpot, doing);
    }
    if (context_.observer != nullptr) { context_.observer->on_sequence_end(request_, result, context_.model); }
    sink_.on_end(result);
}

}  // namespace gateway
