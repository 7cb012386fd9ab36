#include "gateway/answer.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "gateway/anthropic/messages_answer.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/routed_ask.h"
#include "gateway/explain/stage_times.h"
#include "gateway/openai/json_writer.h"
#include "gateway/openai/responses_answer.h"

namespace gateway {
namespace {

/// One sequence each: their forms have no n.
std::unique_ptr<ItemAnswer> make_items(const AnswerHeader& header, RequestForm& form) {
    switch (header.endpoint) {
        case Endpoint::responses:
            return std::make_unique<ResponsesAnswer>(header, std::move(form.shown_fields), form.stream);
        case Endpoint::messages:
            return std::make_unique<MessagesAnswer>(header, form.stream);
        default:
            return nullptr;
    }
}

/// What the client asked for is JSON, and a grammar makes it so; calls of tools, too, but those end by themselves.
bool is_kept_to_json(const RequestForm& form) {
    if (form.grammar == nullptr) { return false; }
    if (form.grammar_is_answers) { return true; }
    if (form.grammar_field == form.tools_field) { return false; }
    const proto::Grammar& grammar = *form.grammar;
    if (grammar.kind() == proto::Grammar::KIND_LARK) {  // a schema, without spaces
        return grammar.text().starts_with("start: %json ") && grammar.text().find('\n') + 1 == grammar.text().size();
    }
    return grammar.kind() == proto::Grammar::KIND_JSON_SCHEMA || grammar.kind() == proto::Grammar::KIND_JSON_OBJECT;
}

}  // namespace

Answer::Answer(Setup setup)
    : setup_(std::move(setup)),
      response_(setup_.header, setup_.text),
      items_(make_items(setup_.header, setup_.prepared.form)),
      last_sent_at_(setup_.tag.received_at) {}

void Answer::start() {
    const PreparedRequest& prepared = setup_.prepared;
    opened_at_ = setup_.clock.now();
    for (std::size_t index = 0; index < sequences(prepared); ++index) {
        Choice& choice = choices_.emplace_back(*this, index / prepared.form.n, static_cast<std::uint32_t>(index));
        if (prepared.reader.does_anything() || items_ != nullptr) { choice.reader.emplace(prepared.reader); }
        if (is_kept_to_json(prepared.form)) { choice.json_end.emplace(); }
        if (prepared.form.logprobs) { choice.form.logprobs.emplace(); }
        if (prepared.form.return_token_ids) {
            choice.form.token_ids.emplace();
            choice.form.prompt_token_ids = *prepared.prompts[choice.prompt].tokens;
        }
    }
    for (Choice& choice : choices_) {
        if (finished_) { return; }  // a sequence before this one took all with it
        GenerationRequest request =
            generation_request(prepared, choice.prompt, choice.form.index % prepared.form.n, setup_.seed, setup_.text);
        request.tenant = setup_.tenant;
        request.session = setup_.tag.session;
        request.hints = setup_.tag.hints;
        request.hints.prompt_group = prepared.form.prompt_cache_key;
        for (std::string* session : {&request.session, &request.hints.session}) {
            if (session->empty()) { *session = prepared.form.session; }
        }
        request.slo = setup_.slo;
        request.received_at = setup_.tag.received_at;
        request.deadline = setup_.tag.received_at + setup_.request_timeout;
        request.cache = setup_.tag.cache;
        request.routed = setup_.tag.routed;
        if (setup_.tag.trace) { request.traceparent = base::to_traceparent(setup_.tag.trace->context); }
        choice.id = setup_.source.open(std::move(request), choice);
        // It failed, or its client went, from inside: nobody could name it yet.
        if (finished_ && !choice.ended) { setup_.source.cancel(*choice.id, "sibling_failed"); }
    }
}

void Answer::on_placed() {
    ++placed_;
    placed_at_ = setup_.clock.now();
    if (placed_ == choices_.size()) { tell_admission("admitted"); }
    if (placed_ == choices_.size() && first_token_seen_) { open_stream(); }
    if (pings() && setup_.wake) { setup_.wake(last_sent_at_ + setup_.ping_interval); }
}

void Answer::tell_admission(std::string_view outcome) {
    if (std::exchange(admission_told_, true)) { return; }
    setup_.metrics.admission(metrics().model(), outcome, setup_.slo.class_name);
}

bool Answer::pings() const {
    return !finished_ && streams() && setup_.ping_interval > base::Duration::zero() && placed_ == choices_.size();
}

void Answer::on_piece(Choice& choice, Piece piece, std::uint32_t generated_tokens, std::string_view path) {
    if (finished_) { return; }
    choice.generated_tokens = generated_tokens;
    if (!first_token_seen_) { first_token(path); }
    if (!choice.echoed && setup_.prepared.form.echo) {
        echo(choice);
        if (finished_) { return; }
    }
    if (setup_.prepared.hides_generated || piece.empty()) { return; }
    if (choice.json_end && !choice.reader) { choice.json_end->push(piece.text); }
    for (TokenRecord& record : piece.tokens) {
        record.text_offset += choice.echo_length;
    }
    if (streams()) {
        stream_piece(choice, piece);
    } else {
        gather_piece(choice, std::move(piece));
    }
}

void Answer::first_token(std::string_view path) {
    first_token_seen_ = true;
    first_token_at_ = setup_.clock.now();
    metrics().first_token(setup_.slo.class_index, path, *first_token_at_ - setup_.tag.received_at);
    if (streams() && placed_ == choices_.size()) { open_stream(); }
}

void Answer::echo(Choice& choice) {
    choice.echoed = true;
    const PreparedRequest::Prompt& prompt = setup_.prepared.prompts[choice.prompt];
    std::optional<LogprobsForm> logprobs;
    if (setup_.prepared.form.logprobs) {
        if (choice.prompt_records.size() + 1 != prompt.tokens->size()) {
            fail(api_error({base::ErrorCode::internal, "a worker gave logprobs for " +
                                                           std::to_string(choice.prompt_records.size()) + " of " +
                                                           std::to_string(prompt.tokens->size()) + " prompt tokens"},
                           0),
                 "sibling_failed");
            return;
        }
        logprobs.emplace();
        logprobs->first_has_none = true;
        logprobs->tokens.push_back({.token = prompt.tokens->front(), .logprob = 0, .top = {}});
        std::move(choice.prompt_records.begin(), choice.prompt_records.end(), std::back_inserter(logprobs->tokens));
        choice.prompt_records.clear();
        choice.echo_length = code_points(prompt.text);
        for (std::size_t at = 0; at < logprobs->tokens.size(); ++at) {
            // A prompt that came as text is shown as it was written; its tokens need not spell exactly that.
            logprobs->tokens[at].text_offset = std::min(prompt.text_offsets[at], choice.echo_length);
        }
    }
    if (streams()) {
        emit(response_.text_chunk(choice.form.index, prompt.text, logprobs, nullptr, usage_so_far()));
    } else {
        choice.form.text = prompt.text;
        choice.form.logprobs = std::move(logprobs);
    }
}

/// Twenty-eight letters and digits after the prefix; Mistral's templates take nine and no others.
std::string Answer::call_id(const Choice& choice, std::uint32_t call) const {
    constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
    const std::string_view drawn =
        std::string_view(setup_.header.id)
            .substr(std::min(form_of(setup_.header.endpoint).id_prefix.size(), setup_.header.id.size()));
    const auto& tools = setup_.prepared.reader.tools;
    const bool is_short = tools && setup_.text.answer_style().tools == ToolFormat::mistral;
    std::string id = is_short ? "" : "call_";
    id += drawn.substr(0, is_short ? 5 : 24);
    for (const std::uint32_t number : {choice.form.index, call}) {
        id += kDigits[number / kDigits.size() % kDigits.size()];
        id += kDigits[number % kDigits.size()];
    }
    return id;
}

void Answer::stream_events(const Choice& choice, const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
        if (setup_.prepared.form.tools.is_older_form && event.index > 0) { continue; }  // it has room for one
        const bool begins_call = event.kind == AnswerEvent::Kind::call;
        if (items_ != nullptr) {
            emit(items_->push(event, begins_call ? call_id(choice, event.index) : std::string()));
            continue;
        }
        const bool is_reasoning = event.kind == AnswerEvent::Kind::reasoning;
        if (is_reasoning && setup_.header.reasoning == ReasoningFields::none) { continue; }
        emit(response_.event_chunk(choice.form.index, event, begins_call ? call_id(choice, event.index) : std::string(),
                                   usage_so_far()));
    }
}

void Answer::follow_json(Choice& choice, const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
        if (choice.json_end && event.kind == AnswerEvent::Kind::content) { choice.json_end->push(event.text); }
    }
}

void Answer::gather_events(Choice& choice, const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
        if (items_ != nullptr) {
            items_->push(event, event.kind == AnswerEvent::Kind::call ? call_id(choice, event.index) : std::string());
            continue;
        }
        switch (event.kind) {
            case AnswerEvent::Kind::content:
                choice.form.text += event.text;
                break;
            case AnswerEvent::Kind::reasoning:
                choice.form.reasoning += event.text;
                break;
            case AnswerEvent::Kind::call:
                choice.form.calls.push_back({call_id(choice, event.index), event.text, ""});
                break;
            case AnswerEvent::Kind::arguments:
                choice.form.calls.back().arguments += event.text;
                break;
        }
    }
}

void Answer::stream_piece(Choice& choice, const Piece& piece) {
    if (choice.reader) {
        const auto events = choice.reader->push(piece.text);
        follow_json(choice, events);
        stream_events(choice, events);
        if (!setup_.prepared.form.logprobs && !setup_.prepared.form.return_token_ids) { return; }
    }
    const std::string_view shown = choice.reader ? std::string_view() : std::string_view(piece.text);
    std::optional<LogprobsForm> logprobs;
    if (setup_.prepared.form.logprobs) {
        logprobs = LogprobsForm{.tokens = piece.tokens};
    } else if (piece.text.empty() && !setup_.prepared.form.return_token_ids) {
        return;
    }
    std::vector<base::TokenId> ids;
    const bool tells_ids = setup_.prepared.form.return_token_ids;
    for (std::size_t i = 0; tells_ids && i < piece.tokens.size(); ++i) {
        ids.push_back(piece.tokens[i].token);
    }
    emit(response_.text_chunk(choice.form.index, shown, logprobs, tells_ids ? &ids : nullptr, usage_so_far()));
}

void Answer::gather_piece(Choice& choice, Piece piece) {
    if (choice.reader) {
        const auto events = choice.reader->push(piece.text);
        follow_json(choice, events);
        gather_events(choice, events);
    } else {
        choice.form.text += piece.text;
    }
    for (TokenRecord& record : piece.tokens) {
        if (choice.form.token_ids) { choice.form.token_ids->push_back(record.token); }
        if (choice.form.logprobs) { choice.form.logprobs->tokens.push_back(std::move(record)); }
    }
}

void Answer::on_end(Choice& choice, const GenerationEnd& end) {
    CHECK(!choice.ended);
    choice.ended = true;
    choice.form.end = end;
    choice.kv = end.kv;
    choice.timeline = end.timeline;
    ++ended_;
    if (setup_.prepared.hides_generated) {
        choice.form.end.completion_tokens = 0;
        choice.form.end.stop_string.reset();
        choice.form.end.stop_token.reset();
        if (end.reason == EndReason::stop) { choice.form.end.reason = EndReason::length; }
    }
    if (finished_) { return; }  // cancelled by ourselves
    if (end.reason == EndReason::failed) {
        fail(api_error(*end.error, end.retry_after_ms), "sibling_failed");
        return;
    }
    const bool is_cancelled = end.reason == EndReason::cancelled;
    if (choice.reader && !is_cancelled) {
        const auto events = choice.reader->finish();
        follow_json(choice, events);
        streams() ? stream_events(choice, events) : gather_events(choice, events);
    }
    // JSON that was closed by the last token that was allowed is whole: clients refuse to read what was cut.
    if (end.reason == EndReason::length && choice.json_end && choice.json_end->is_closed()) {
        choice.form.end.reason = EndReason::stop;
    }
    if (streams() && !is_cancelled && items_ == nullptr) {
        emit(response_.end_chunk(choice.form.index, choice.form.end, usage_so_far(),
                                 choice.reader && choice.reader->calls() > 0));
    }
    if (ended_ == choices_.size()) { complete(); }
}

void Answer::complete() {
    if (streams() && items_ != nullptr) {
        send(items_->close(choices_.front().form.end, usage()));
        setup_.exchange->end_stream();
    } else if (streams()) {
        if (setup_.prepared.form.include_usage) { send(response_.usage_chunk(usage())); }
        send(kSseDone);
        setup_.exchange->end_stream();
    } else {
        const Usage total = usage();
        std::vector<ChoiceForm> forms;
        for (Choice& choice : choices_) {
            forms.push_back(std::move(choice.form));
        }
        std::string body = items_ != nullptr ? items_->whole(forms.front().end, total) : response_.whole(forms, total);
        HttpResponse response{.status = 200, .fields = fields(), .body = std::move(body)};
        setup_.exchange->respond(std::move(response));
    }
    finish(200);
}

void Answer::fail(const ApiError& error, std::string_view cause) {
    if (finished_) { return; }
    if (head_sent_) {
        if (items_ != nullptr) {
            send(items_->failed(error, usage(), roles_sent_));
        } else {
            send(sse_event(error_json(error)));
            send(kSseDone);
        }
        setup_.exchange->close_after();
        setup_.exchange->end_stream();
    } else {
        HttpResponse response = error_response(error, setup_.tag.style);
        for (auto& field : fields()) {
            response.fields.push_back(std::move(field));
        }
        setup_.exchange->respond(std::move(response));
    }
    finished_ = true;  // the siblings' ends are no answers any more
    cancel_all(cause);
    finished_ = false;
    finish(error.status);
}

void Answer::give_up(const ApiError& error, std::string_view cause) {
    fail(error, cause);
}

void Answer::client_gone(std::string_view cause) {
    if (finished_) { return; }
    finished_ = true;
    cancel_all(cause);
    finished_ = false;
    finish(499);
}

void Answer::cancel_all(std::string_view cause) {
    for (const Choice& choice : choices_) {
        if (!choice.ended && choice.id) { setup_.source.cancel(*choice.id, cause); }
    }
}

void Answer::finish(unsigned status) {
    CHECK(!finished_);
    finished_ = true;
    tell_admission(admission_without_place(status));
    metrics().request_duration(setup_.slo.class_index, setup_.clock.now() - setup_.tag.received_at);
    const Outcome outcome = count_slo(status);
    if (base::SpanSink* spans = setup_.log.spans(); spans != nullptr && setup_.tag.trace) {
        const WallTime wall(setup_.clock);
        for (const Choice& choice : choices_) {
            if (!choice.timeline) { continue; }
            for (base::Span& span : sequence_spans(*setup_.tag.trace, *choice.timeline, wall)) {
                spans->add(std::move(span));
            }
        }
    }
    if (setup_.timelines != nullptr && setup_.timelines->is_on()) { keep_timeline(outcome); }
    const Usage total = usage();
    metrics().tokens(total.prompt_tokens, total.cached_tokens, total.completion_tokens);
    if (setup_.tenant_tokens != nullptr) {
        setup_.tenant_tokens->add(setup_.tenant, total.prompt_tokens, total.cached_tokens, total.completion_tokens);
    }
    setup_.log.ended(setup_.tag, {.endpoint = form_of(setup_.header.endpoint).name,
                                  .model = metrics().model(),
                                  .status = status,
                                  .stream = streams(),
                                  .prompt_tokens = total.prompt_tokens,
                                  .cached_tokens = total.cached_tokens,
                                  .completion_tokens = total.completion_tokens,
                                  .stages = stages(),
                                  .answer_id = setup_.header.id,
                                  .finish_reason = finish_word(),
                                  .kv = kv(),
                                  .kept_targets = kept_targets(outcome)});
    setup_.done(*this);
}

std::optional<bool> Answer::kept_targets(const Outcome& outcome) const {
    const SloTargets& targets = outcome.targets;
    if (!targets.has_any() || outcome.status != 200) { return std::nullopt; }
    return (targets.ttft == base::Duration::zero() || outcome.ttft_met) &&
           (targets.tpot == base::Duration::zero() || outcome.tpot_met) &&
           (targets.e2e == base::Duration::zero() || outcome.e2e_met);
}

StageTimes Answer::stages() const {
    StageTimes times;
    const base::TimePoint received = setup_.tag.received_at;
    if (opened_at_) { times.prepare = *opened_at_ - received; }
    if (placed_at_) { times.place = *placed_at_ - *opened_at_; }
    if (first_token_at_) { times.first_token = *first_token_at_ - received; }
    for (const Choice& choice : choices_) {
        const base::Duration tpot = choice.form.end.tpot;
        if (tpot > times.tpot.value_or(base::Duration::zero())) { times.tpot = tpot; }
    }
    return times;
}

/// Of its first sequence, where that has an answer.
std::string_view Answer::finish_word() const {
    if (choices_.empty() || !choices_.front().ended) { return {}; }
    const Choice& choice = choices_.front();
    const EndReason reason = choice.form.end.reason;
    if (reason == EndReason::failed || reason == EndReason::cancelled) { return {}; }
    if (reason == EndReason::length) { return "length"; }
    return choice.reader && choice.reader->calls() > 0 ? "tool_calls" : "stop";
}

Outcome Answer::count_slo(unsigned status) {
    const std::size_t slo_class = setup_.slo.class_index;
    const SloTargets& targets = setup_.slo.targets;
    const CacheAsk* cache = setup_.tag.cache.get();
    const bool is_clients = cache != nullptr && cache->only_if_cached && status == 504;
    if (is_clients || (status != 200 && status != 429 && status < 500)) {  // the client's doing
        metrics().slo_request(slo_class, "all", "excluded");
        return {.status = status, .targets = targets};
    }
    bool ttft_met = status == 200;
    bool tpot_met = status == 200;
    for (const Choice& choice : choices_) {
        const GenerationEnd& end = choice.form.end;
        const bool is_early = end.first_token_at && *end.first_token_at - setup_.tag.received_at <= targets.ttft;
        ttft_met = ttft_met && is_early;
        tpot_met = tpot_met && end.tpot <= targets.tpot;
    }
    const auto count = [&](std::string_view slo, bool met) {
        metrics().slo_request(slo_class, slo, met ? "good" : "bad");
    };
    const bool has_ttft = targets.ttft > base::Duration::zero();
    const bool has_tpot = targets.tpot > base::Duration::zero();
    const bool has_e2e = targets.e2e > base::Duration::zero();
    const base::Duration took = setup_.clock.now() - setup_.tag.received_at;
    const bool e2e_met = status == 200 && took <= targets.e2e;
    count("availability", status == 200);
    if (status == 200 && has_ttft) { count("ttft", ttft_met); }
    if (status == 200 && has_tpot) { count("tpot", tpot_met); }
    if (status == 200 && has_e2e) { count("e2e", e2e_met); }
    const bool all = status == 200 && (!has_ttft || ttft_met) && (!has_tpot || tpot_met) && (!has_e2e || e2e_met);
    count("all", all);
    metrics().attained(slo_class, all, setup_.clock.now());
    if (all) { metrics().goodput_tokens(slo_class, usage().completion_tokens); }
    return {.status = status,
            .targets = targets,
            .ttft_met = ttft_met,
            .tpot_met = tpot_met,
            .e2e_met = e2e_met,
            .took = took};
}

void Answer::keep_timeline(const Outcome& outcome) {
    std::vector<std::shared_ptr<const SequenceTimeline>> sequences;
    for (Choice& choice : choices_) {
        if (!choice.timeline) { continue; }
        observe_stages(setup_.metrics.registry(), metrics().model(), *choice.timeline);
        sequences.push_back(std::move(choice.timeline));
    }
    const Explanation why = explain(sequences, outcome);
    for (const auto& [slo, miss] : {std::pair("ttft", why.ttft), std::pair("tpot", why.tpot), std::pair("e2e", why.e2e),
                                    std::pair("all", why.all)}) {
        if (miss) { metrics().slo_missed(setup_.slo.class_index, slo, name_of(miss->cause)); }
    }
    const base::TimePoint now = setup_.clock.now();
    const auto took = std::chrono::duration_cast<std::chrono::microseconds>(now - setup_.tag.received_at);
    setup_.timelines->add({.request_id = setup_.tag.id,
                           .answer_id = setup_.header.id,
                           .endpoint = std::string(form_of(setup_.header.endpoint).name),
                           .model = metrics().model(),
                           .slo_class = setup_.slo.class_name,
                           .stream = streams(),
                           .routed = setup_.tag.routed ? setup_.tag.routed->word() : std::string(),
                           .cache = std::string(setup_.tag.cache ? setup_.tag.cache->word() : std::string_view()),
                           .received_unix_us = setup_.clock.unix_us() - took.count(),
                           .received_at = setup_.tag.received_at,
                           .ended_at = now,
                           .outcome = outcome,
                           .explanation = why,
                           .sequences_total = choices_.size(),
                           .sequences = worst_of(sequences)});
}

std::optional<base::TimePoint> Answer::tick(base::TimePoint now) {
    if (!pings()) { return std::nullopt; }
    if (now - last_sent_at_ >= setup_.ping_interval) {
        if (!head_sent_) {
            head_sent_ = true;
            setup_.exchange->start_stream("text/event-stream; charset=utf-8", fields());
        }
        send(items_ != nullptr && roles_sent_ ? items_->ping() : kSsePing);
    }
    return last_sent_at_ + setup_.ping_interval;
}

void Answer::open_stream() {
    if (!streams() || roles_sent_) { return; }
    if (!head_sent_) {
        head_sent_ = true;
        setup_.exchange->start_stream("text/event-stream; charset=utf-8", fields());
    }
    roles_sent_ = true;
    if (form_of(setup_.header.endpoint).has_roles) {
        // Together with the first token: sent at admission they would pass for it.
        for (const Choice& choice : choices_) {
            send(response_.role_chunk(choice.form.index, usage_so_far()));
        }
    }
    if (items_ != nullptr) { send(items_->open(usage())); }
    send(std::exchange(held_, {}));
}

void Answer::emit(std::string_view events) {
    if (roles_sent_) {
        send(events);
    } else {
        held_ += events;
    }
}

void Answer::send(std::string_view data) {
    if (data.empty()) { return; }
    last_sent_at_ = setup_.clock.now();
    setup_.exchange->send(data);
}

std::string_view Answer::kv() const {
    std::string_view told;
    for (const Choice& choice : choices_) {
        if (told.empty() || is_lossy_label(choice.kv)) { told = choice.kv; }
    }
    return told;
}

HttpFields Answer::fields() const {
    HttpFields result = answer_fields(setup_.tag, setup_.clock.now());
    // The head of a stream goes with its first token, before all KV has come: it says what may be.
    const bool may_be_lossy = streams() && setup_.slo.allow_lossy_kv;
    if (may_be_lossy || !kv().empty()) {
        result.emplace_back("x-sluice-kv", may_be_lossy ? "lossy-allowed" : std::string(kv()));
    }
    if (setup_.prepared.tools_left_out) { result.emplace_back("x-sluice-tools", "left-out"); }
    if (streams() && head_sent_) {
        result.emplace_back("Cache-Control", "no-cache");
        result.emplace_back("X-Accel-Buffering", "no");
    }
    return result;
}

Usage Answer::usage() const {
    Usage total;
    for (std::size_t index = 0; index < choices_.size(); ++index) {
        const Choice& choice = choices_[index];
        if (index % setup_.prepared.form.n == 0) {  // a prompt counts once, however many choices it has
            total.prompt_tokens += setup_.prepared.prompts[choice.prompt].tokens->size();
            total.cached_tokens += choice.form.end.cached_tokens;
        }
        total.reasoning_tokens += choice.form.end.reasoning_tokens;
        total.completion_tokens += choice.ended                      ? choice.form.end.completion_tokens
                                   : setup_.prepared.hides_generated ? 0
                                                                     : choice.generated_tokens;
    }
    if (const CacheAsk* cache = setup_.tag.cache.get(); cache != nullptr && cache->is_served()) {
        total.saved = Usage::Saved{.kind = cache->kind,
                                   .age_s = cache->age_s.value_or(0),
                                   .prompt_tokens = cache->saved_prompt_tokens,
                                   .completion_tokens = cache->saved_completion_tokens};
    }
    return total;
}

std::optional<Usage> Answer::usage_so_far() const {
    if (!setup_.prepared.form.continuous_usage) { return std::nullopt; }
    return usage();
}

}  // namespace gateway
