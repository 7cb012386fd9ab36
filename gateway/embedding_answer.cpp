#include "gateway/embedding_answer.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "gateway/openai/embedding_form.h"
#include "gateway/openai/endpoint.h"
#include "gateway/openai/errors.h"

namespace gateway {
namespace {

/// Until a text that found all queues full is tried again, if none of the request's others ends before.
constexpr base::Duration kHold = std::chrono::milliseconds(100);

}  // namespace

std::size_t EmbeddingAnswer::texts_first(const PreparedRequest& prepared, std::size_t texts_at_once) {
    return std::min(prepared.prompts.size(), texts_at_once);
}

EmbeddingAnswer::EmbeddingAnswer(Setup setup) : setup_(std::move(setup)), vectors_(setup_.prepared.prompts.size()) {
    CHECK(!vectors_.empty() && setup_.texts_at_once > 0);
    for (std::size_t i = 0; i < vectors_.size(); ++i) {
        texts_.emplace_back(*this, i);
        to_open_.push_back(i);
    }
}

void EmbeddingAnswer::pump() {
    if (pumping_) { return; }
    pumping_ = true;
    while (!finished_ && !held_until_ && !to_open_.empty() && open_ < setup_.texts_at_once &&
           setup_.source.has_room(1)) {
        Text& text = texts_[to_open_.front()];
        to_open_.pop_front();
        open(text);
    }
    pumping_ = false;
    if (!finished_ && done_ == texts_.size()) { complete(); }
}

void EmbeddingAnswer::open(Text& text) {
    GenerationRequest request;
    request.encodes = true;
    request.model = model();
    request.tenant = setup_.tenant;
    request.prompt = setup_.prepared.prompts[text.index].tokens;
    request.deadline = setup_.tag.received_at + setup_.request_timeout;
    ++open_;
    text.is_open = true;
    const base::RequestId id = setup_.source.open(std::move(request), text);
    if (!text.is_open) { return; }  // it has ended from inside
    if (finished_) {                // another one failed from inside: nobody could name this one yet
        setup_.source.cancel(id, "sibling_failed");
        return;
    }
    text.id = id;
}

void EmbeddingAnswer::on_placed() {
    placed_any_ = true;
    tell_admission("admitted");
}

void EmbeddingAnswer::on_vector(Text& text, std::vector<float> vector) {
    if (finished_) { return; }
    if (const auto dimensions = setup_.prepared.form.dimensions) {
        if (*dimensions > vector.size()) {
            fail(bad_request("dimensions", "'dimensions' is " + std::to_string(*dimensions) +
                                               ", the vectors of this model have " + std::to_string(vector.size()))
                     .value(),
                 "sibling_failed");
            return;
        }
        cut_vector(vector, *dimensions);
    }
    vectors_[text.index] = std::move(vector);
}

void EmbeddingAnswer::on_end(Text& text, const GenerationEnd& end) {
    CHECK(text.is_open);
    text.is_open = false;
    text.id.reset();
    --open_;
    if (finished_) { return; }
    if (end.reason == EndReason::failed) {
        const bool may_wait = end.error->code == base::ErrorCode::resource_exhausted && end.retry_after_ms > 0 &&
                              (placed_any_ || open_ > 0 || done_ > 0);
        if (!may_wait) {
            fail(api_error(*end.error, end.retry_after_ms), "sibling_failed");
            return;
        }
        to_open_.push_front(text.index);
        held_until_ = setup_.clock.now() + kHold;
        if (setup_.wake) { setup_.wake(*held_until_); }
        return;
    }
    if (end.reason != EndReason::stop) { return; }  // cancelled, by ourselves only
    ++done_;
    held_until_.reset();  // there is room where this one was
    pump();
}

void EmbeddingAnswer::start() {
    pump();
    if (const auto at = next_look(); at && setup_.wake) { setup_.wake(*at); }
}

std::optional<base::TimePoint> EmbeddingAnswer::next_look() const {
    if (finished_ || to_open_.empty()) { return std::nullopt; }
    std::optional<base::TimePoint> at = held_until_;
    if (!at && open_ < setup_.texts_at_once) { at = setup_.clock.now() + kHold; }
    if (open_ == 0) {  // open ones have their own timer
        const base::TimePoint end = setup_.tag.received_at + setup_.request_timeout;
        at = at ? std::min(*at, end) : end;
    }
    return at;
}

std::optional<base::TimePoint> EmbeddingAnswer::tick(base::TimePoint now) {
    if (finished_) { return std::nullopt; }
    if (open_ == 0 && now >= setup_.tag.received_at + setup_.request_timeout) {  // open ones have their own timer
        fail(api_error({base::ErrorCode::deadline_exceeded, "the request was not finished within its time limit"}, 0),
             "deadline");
        return std::nullopt;
    }
    if (held_until_ && now >= *held_until_) { held_until_.reset(); }
    pump();
    return next_look();
}

void EmbeddingAnswer::complete() {
    std::uint64_t tokens = 0;
    for (const auto& prompt : setup_.prepared.prompts) {
        tokens += prompt.tokens->size();
    }
    const RequestForm& form = setup_.prepared.form;
    HttpResponse response{.status = 200,
                          .fields = answer_fields(setup_.tag, setup_.clock.now()),
                          .body = embedding_json(form.model_name, vectors_, form.base64, tokens)};
    setup_.exchange->respond(std::move(response));
    metrics().tokens(tokens, 0, 0);
    finish(200);
}

void EmbeddingAnswer::fail(const ApiError& error, std::string_view cause) {
    if (finished_) { return; }
    HttpResponse response = error_response(error);
    add_fields(response.fields, answer_fields(setup_.tag, setup_.clock.now()));
    setup_.exchange->respond(std::move(response));
    finished_ = true;  // the ends of the others are no answers any more
    cancel_all(cause);
    finished_ = false;
    finish(error.status);
}

void EmbeddingAnswer::tell_admission(std::string_view outcome) {
    if (std::exchange(admission_told_, true)) { return; }
    setup_.metrics.admission(metrics().model(), outcome);
}

void EmbeddingAnswer::client_gone(std::string_view cause) {
    if (finished_) { return; }
    finished_ = true;
    cancel_all(cause);
    finished_ = false;
    finish(499);
}

void EmbeddingAnswer::cancel_all(std::string_view cause) {
    for (Text& text : texts_) {
        if (text.id) { setup_.source.cancel(*text.id, cause); }
    }
}

void EmbeddingAnswer::finish(unsigned status) {
    CHECK(!finished_);
    finished_ = true;
    tell_admission(admission_without_place(status));
    metrics().request_duration(0, setup_.clock.now() - setup_.tag.received_at);  // no class promises vectors anything
    std::uint64_t tokens = 0;
    for (const auto& prompt : setup_.prepared.prompts) {
        tokens += prompt.tokens->size();
    }
    setup_.log.ended(setup_.tag, {.endpoint = form_of(Endpoint::embeddings).name,
                                  .model = metrics().model(),
                                  .status = status,
                                  .prompt_tokens = tokens});
    if (setup_.tenant_tokens != nullptr && status == 200) { setup_.tenant_tokens->add(setup_.tenant, tokens, 0, 0); }
    setup_.done(*this);
}

}  // namespace gateway
