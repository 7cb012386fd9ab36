#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "gateway/http/exchange.h"
#include "gateway/metrics.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/response_form.h"
#include "gateway/request/request_table.h"

namespace gateway {

/// The answer to one client request: opens its sequences (prompts x choices), gathers or streams what they give, and
/// ends exactly once: whole answer, stream with [DONE], error, or nobody left to answer. I/O thread only.
class Answer final : public GenerationSink {
public:
    struct Setup {
        RequestTable& table;
        const TextPort& text;
        GatewayMetrics& metrics;
        const base::Clock& clock;
        PreparedRequest prepared;
        std::shared_ptr<Exchange> exchange;
        AnswerHeader header;
        std::string request_id;  // for the x-request-id field
        base::TimePoint received_at;
        base::Duration request_timeout;
        base::Duration ping_interval;  // zero: none
        std::uint64_t seed;
        std::function<void(Answer&)> done;  // called once, last; must not destroy the answer from inside
    };
    explicit Answer(Setup setup);

    /// The number of sequences it opens.
    static std::size_t sequences(const PreparedRequest& prepared) { return prepared.prompts.size() * prepared.form.n; }
    /// Opens them. The table must have room.
    void start();
    void client_gone(std::string_view cause);
    /// The gateway gives up (drain timeout): an error to the client, cancel to the workers.
    void give_up(const ApiError& error, std::string_view cause);
    /// Several times a second: keep-alive of silent streams.
    void tick(base::TimePoint now);

    void on_placed(base::RequestId id) override;
    void on_prompt(base::RequestId id, std::vector<TokenRecord> records) override;
    void on_piece(base::RequestId id, Piece piece, std::uint32_t generated_tokens, std::string_view path) override;
    void on_end(base::RequestId id, const GenerationEnd& end) override;

private:
    struct Choice {
        base::RequestId id{};
        std::size_t prompt = 0;  // index into prepared.prompts
        bool ended = false;
        bool echoed = false;
        ChoiceForm form;
        std::vector<TokenRecord> prompt_records;
        std::size_t echo_length = 0;  // code points of the prompt at the start of the text
        std::uint32_t generated_tokens = 0;
    };

    bool streams() const { return setup_.prepared.form.stream; }
    HttpFields fields() const;
    Usage usage() const;
    std::optional<Usage> usage_so_far() const;
    void first_token(std::string_view path);
    void echo(Choice& choice);
    void stream_piece(const Choice& choice, const Piece& piece);
    void gather_piece(Choice& choice, Piece piece);
    /// Sends, or keeps until every sequence has a place: till then the request can still be refused.
    void emit(const std::string& json);
    void open_stream();
    void send(std::string_view data);
    void fail(const ApiError& error, std::string_view cause);
    void cancel_all(std::string_view cause);
    void complete();
    void finish(unsigned status);

    Setup setup_;
    ResponseForm response_;
    std::vector<Choice> choices_;
    std::unordered_map<base::RequestId, std::size_t> index_;
    std::size_t placed_ = 0;
    std::size_t ended_ = 0;
    bool first_token_seen_ = false;
    bool head_sent_ = false;
    bool roles_sent_ = false;
    bool finished_ = false;
    std::string held_;  // events that wait for open_stream()
    base::TimePoint last_sent_at_;
};

}  // namespace gateway
