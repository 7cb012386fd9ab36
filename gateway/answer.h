#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "gateway/client_answer.h"
#include "gateway/explain/timeline_book.h"
#include "gateway/http/exchange.h"
#include "gateway/metrics.h"
#include "gateway/openai/item_answer.h"
#include "gateway/openai/json_end.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/response_form.h"
#include "gateway/request/sequence_source.h"
#include "gateway/request_log.h"
#include "gateway/tenant_tokens.h"

namespace gateway {

/// The answer to one client request: opens its sequences (prompts x choices) at a source, gathers or streams what they
/// give, and ends exactly once: whole answer, stream with [DONE], error, or nobody left to answer. I/O thread only.
class Answer final : public ClientAnswer {
public:
    struct Setup {
        SequenceSource& source;
        const TextPort& text;
        GatewayMetrics& metrics;
        const base::Clock& clock;
        Wake wake = {};  // asks for tick(); empty: its owner looks by itself
        PreparedRequest prepared;
        std::shared_ptr<Exchange> exchange;
        AnswerHeader header;
        RequestTag tag;
        RequestLog& log;
        TimelineBook* timelines = nullptr;      // borrowed; null: none are kept
        std::string tenant;                     // whom its sequences are counted for
        TenantTokens* tenant_tokens = nullptr;  // borrowed; null: nobody counts
        RequestSlo slo = {};
        base::Duration request_timeout;
        base::Duration ping_interval;  // zero: none
        std::uint64_t seed;
        std::function<void(ClientAnswer&)> done;  // called once, last; must not destroy the answer from inside
    };
    explicit Answer(Setup setup);

    /// The model that answers, of the gateway's Models.
    std::size_t model() const override { return setup_.prepared.form.model; }
    /// The number of sequences it opens.
    static std::size_t sequences(const PreparedRequest& prepared) { return prepared.prompts.size() * prepared.form.n; }
    /// Opens them; the source must have room, and may answer from inside. Once.
    void start() override;
    void client_gone(std::string_view cause) override;
    /// The gateway gives up (drain timeout): an error to the client, cancel to the workers.
    void give_up(const ApiError& error, std::string_view cause) override;
    /// Keep-alive of a silent stream, if it is due, and when the next is.
    std::optional<base::TimePoint> tick(base::TimePoint now) override;

private:
    /// One sequence of the answer, as its source sees it.
    struct Choice final : GenerationSink {
        Choice(Answer& of, std::size_t of_prompt, std::uint32_t index) : answer(of), prompt(of_prompt) {
            form.index = index;
        }
        void on_placed() override { answer.on_placed(); }
        void on_prompt(std::vector<TokenRecord> records) override { prompt_records = std::move(records); }
        void on_piece(Piece piece, std::uint32_t tokens, std::string_view path) override {
            answer.on_piece(*this, std::move(piece), tokens, path);
        }
        void on_end(const GenerationEnd& end) override { answer.on_end(*this, end); }

        Answer& answer;
        const std::size_t prompt;           // index into prepared.prompts
        std::optional<base::RequestId> id;  // once the source has returned from opening it
        bool ended = false;
        bool echoed = false;
        ChoiceForm form;
        std::string kv;  // GenerationEnd::kv, also when `form` has gone into the answer
        std::shared_ptr<const SequenceTimeline> timeline;  // once it has ended, where they are kept
        std::vector<TokenRecord> prompt_records;
        std::optional<AnswerReader> reader;  // of a chat whose answers may hold more than content
        std::optional<JsonEnd> json_end;     // of content that a grammar makes JSON
        std::size_t echo_length = 0;         // code points of the prompt at the start of the text
        std::uint32_t generated_tokens = 0;
    };

    void on_placed();
    /// What became of it at the door; only the first word counts.
    void tell_admission(std::string_view outcome);
    bool pings() const;
    void on_piece(Choice& choice, Piece piece, std::uint32_t generated_tokens, std::string_view path);
    void on_end(Choice& choice, const GenerationEnd& end);
    ModelMetrics& metrics() { return setup_.metrics.of(model()); }
    bool streams() const { return setup_.prepared.form.stream; }
    HttpFields fields() const;
    /// How KV came from another worker, the lossiest of all choices; empty: it did not, or not yet.
    std::string_view kv() const;
    Usage usage() const;
    std::optional<Usage> usage_so_far() const;
    void first_token(std::string_view path);
    void echo(Choice& choice);
    void stream_piece(Choice& choice, const Piece& piece);
    void stream_events(const Choice& choice, const std::vector<AnswerEvent>& events);
    static void follow_json(Choice& choice, const std::vector<AnswerEvent>& events);
    void gather_events(Choice& choice, const std::vector<AnswerEvent>& events);
    std::string call_id(const Choice& choice, std::uint32_t call) const;
    void gather_piece(Choice& choice, Piece piece);
    /// Sends, or keeps until every sequence has a place: till then the request can still be refused.
    void emit(std::string_view events);
    void open_stream();
    void send(std::string_view data);
    void fail(const ApiError& error, std::string_view cause);
    void cancel_all(std::string_view cause);
    void complete();
    void finish(unsigned status);
    /// What became of its targets.
    Outcome count_slo(unsigned status);
    /// Nothing where none were given, or where it has no whole answer.
    std::optional<bool> kept_targets(const Outcome& outcome) const;
    /// Why it missed them, and what happened.
    void keep_timeline(const Outcome& outcome);
    StageTimes stages() const;
    std::string_view finish_word() const;

    Setup setup_;
    ResponseForm response_;
    std::unique_ptr<ItemAnswer> items_;  // of endpoints whose answers are no choices; else null
    std::deque<Choice> choices_;         // all, from start() on; they stay in place
    std::size_t placed_ = 0;
    std::size_t ended_ = 0;
    bool first_token_seen_ = false;
    bool head_sent_ = false;
    bool roles_sent_ = false;
    bool finished_ = false;
    bool admission_told_ = false;
    std::string held_;  // events that wait for open_stream()
    base::TimePoint last_sent_at_;
    std::optional<base::TimePoint> opened_at_;       // its sequences
    std::optional<base::TimePoint> placed_at_;       // the last of them
    std::optional<base::TimePoint> first_token_at_;  // of the first
};

}  // namespace gateway
