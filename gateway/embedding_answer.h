#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gateway/client_answer.h"
#include "gateway/http/exchange.h"
#include "gateway/metrics.h"
#include "gateway/openai/prepare.h"
#include "gateway/request/ports.h"
#include "gateway/request/sequence_source.h"
#include "gateway/request_log.h"
#include "gateway/tenant_tokens.h"

namespace gateway {

/// The answer to one request for vectors: opens its texts at a source, some at a time, gathers their vectors, answers
/// when all are there. A text that finds all queues full waits while others of the request are under way or were: only
/// a request of which nothing could be placed is refused. Ends exactly once. I/O thread only.
class EmbeddingAnswer final : public ClientAnswer {
public:
    struct Setup {
        SequenceSource& source;
        GatewayMetrics& metrics;
        const base::Clock& clock;
        Wake wake = {};  // asks for tick(); empty: its owner looks by itself
        PreparedRequest prepared;
        std::shared_ptr<Exchange> exchange;
        RequestTag tag;
        RequestLog& log;
        std::string tenant;                     // whom its texts are counted for
        TenantTokens* tenant_tokens = nullptr;  // borrowed; null: nobody counts
        base::Duration request_timeout;
        std::size_t texts_at_once;                // > 0
        std::function<void(ClientAnswer&)> done;  // called once, last; must not destroy the answer from inside
    };
    explicit EmbeddingAnswer(Setup setup);

    std::size_t model() const override { return setup_.prepared.form.model; }
    void start() override;
    void client_gone(std::string_view cause) override;
    void give_up(const ApiError& error, std::string_view cause) override { fail(error, cause); }
    std::optional<base::TimePoint> tick(base::TimePoint now) override;

    /// Texts that are opened first, for which there must be room.
    static std::size_t texts_first(const PreparedRequest& prepared, std::size_t texts_at_once);

private:
    /// One text of the request, as its source sees it.
    struct Text final : GenerationSink {
        Text(EmbeddingAnswer& of, std::size_t at) : answer(of), index(at) {}
        void on_placed() override { answer.on_placed(); }
        void on_prompt(std::vector<TokenRecord> /*records*/) override {}
        void on_piece(Piece /*piece*/, std::uint32_t /*tokens*/, std::string_view /*path*/) override {}
        void on_vector(std::vector<float> vector) override { answer.on_vector(*this, std::move(vector)); }
        void on_end(const GenerationEnd& end) override { answer.on_end(*this, end); }

        EmbeddingAnswer& answer;
        const std::size_t index;            // into prepared.prompts
        std::optional<base::RequestId> id;  // while it is open, once the source has returned from opening it
        bool is_open = false;
    };

    void pump();
    /// When to look for room again; empty: the next text's end, or its own timer, comes first.
    std::optional<base::TimePoint> next_look() const;
    void open(Text& text);
    void on_placed();
    void on_vector(Text& text, std::vector<float> vector);
    void on_end(Text& text, const GenerationEnd& end);
    void complete();
    void fail(const ApiError& error, std::string_view cause);
    void cancel_all(std::string_view cause);
    void finish(unsigned status);
    /// What became of it at the door; only the first word counts.
    void tell_admission(std::string_view outcome);
    ModelMetrics& metrics() { return setup_.metrics.of(model()); }

    Setup setup_;
    std::deque<Text> texts_;           // never moved: the source knows them
    std::deque<std::size_t> to_open_;  // in order
    std::vector<std::vector<float>> vectors_;
    std::size_t open_ = 0;
    std::size_t done_ = 0;
    bool placed_any_ = false;
    bool pumping_ = false;  // opening texts: their ends leave it to the loop that opens them
    bool finished_ = false;
    bool admission_told_ = false;
    std::optional<base::TimePoint> held_until_;  // all queues were full
};

}  // namespace gateway
