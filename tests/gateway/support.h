#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/http/exchange.h"
#include "gateway/request/request_table.h"
#include "gateway/request/text_port.h"

namespace gateway_test {

using Tokens = std::vector<base::TokenId>;

inline constexpr base::TokenId kBos = 256;
inline constexpr base::TokenId kEos = 257;
inline constexpr base::TokenId kEnd = 258;  // "<|end|>"
inline constexpr std::uint32_t kVocabulary = 259;

/// A tokenizer of bytes: token = byte; three special tokens. Its chat template writes "<|end|>" after every message.
class ByteText : public gateway::TextPort {
public:
    base::Result<void> check_grammar(const sluice::proto::Grammar& grammar) const override {
        ++grammars_checked;
        if (grammar.text().find("much-of") != std::string::npos) {
            return base::fail(base::ErrorCode::resource_exhausted, "it takes too much");
        }
        if (grammar.text().find("unheard-of") == std::string::npos) { return {}; }
        return base::fail(base::ErrorCode::invalid_argument, "Unimplemented keys: [\"unheard-of\"]");
    }
    base::Result<Tokens> encode(std::string_view text, bool add_special, bool parse_special,
                                std::span<const std::size_t> text_starts = {}) const override;
    std::string token_bytes(base::TokenId token) const override;
    std::unique_ptr<gateway::Detokenizer> detokenizer(bool skip_special) const override;
    base::Result<std::string> render_chat(std::string_view context_json, std::int64_t now_unix_s) const override;
    /// The source, and what the model's own template makes behind it.
    base::Result<std::string> render_by(std::string_view source, std::string_view context_json,
                                        std::int64_t now_unix_s) const override {
        if (source == "broken") { return base::fail(base::ErrorCode::invalid_argument, "does not compile"); }
        return std::string(source) + *render_chat(context_json, now_unix_s);
    }
    const gateway::SpecialTexts& special_texts() const override { return special_texts_; }
    const Tokens& eos_ids() const override { return eos_ids_; }
    std::optional<base::TokenId> bos() const override { return kBos; }
    bool takes_tools() const override { return shows_tools; }
    gateway::AnswerStyle answer_style() const override { return style; }
    std::optional<gateway::FillMarks> fill_marks() const override { return fill; }
    std::vector<std::pair<std::string, std::string>> named_tokens() const override {
        return {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    }
    std::uint32_t vocabulary() const override { return kVocabulary; }
    const gateway::SamplingDefaults& sampling_defaults() const override { return defaults; }

    std::size_t token_bytes_max() const override { return bytes_max; }

    gateway::SamplingDefaults defaults;
    std::size_t bytes_max = 0;  // what it says of itself; 1 is true
    mutable std::size_t grammars_checked = 0;
    bool shows_tools = true;  // the names of tools stand before the messages
    gateway::AnswerStyle style;
    std::optional<gateway::FillMarks> fill;

private:
    gateway::SpecialTexts special_texts_{{"<s>", "</s>", "<|end|>"}, {"<think>"}};
    Tokens eos_ids_{kEos};
};

/// The model that the fake workers run: the next token is a function of seed, choice and all tokens before, as it is
/// with real ones. Letters, now and then a two-byte character, EOS with chance 1/`eos_every` (0: never).
struct FakeModel {
    std::uint32_t eos_every = 40;
    base::TokenId next(const proto::Sampling& sampling, const Tokens& tokens) const;
    /// All tokens that a whole run generates.
    Tokens run(const gateway::GenerationRequest& request) const;
};

/// A worker that computes one token a step for each of its sequences. Outputs wait until they are taken.
class FakeWorker {
public:
    FakeWorker(proto::WorkerEndpoint endpoint, FakeModel model) : endpoint_(std::move(endpoint)), model_(model) {}

    void take(const proto::WorkerCommand& command);
    /// One step of every sequence that may go on.
    void step();
    /// Fails one sequence (the `pick`-th, modulo their number).
    void fail_one(std::size_t pick, base::ErrorCode code);
    std::deque<proto::SequenceOutput>& outputs() { return outputs_; }
    std::size_t sequences() const { return sequences_.size(); }
    const proto::WorkerEndpoint& endpoint() const { return endpoint_; }
    base::Incarnation incarnation() const { return base::Incarnation{endpoint_.incarnation()}; }

private:
    struct Sequence {
        proto::Start start;
        Tokens tokens;
        std::uint32_t generated = 0;
        bool may_go_on = false;
        bool handed = false;
    };
    using Key = std::pair<std::uint64_t, std::uint32_t>;
    proto::SequenceOutput output_for(const Key& key) const;

    proto::WorkerEndpoint endpoint_;
    FakeModel model_;
    std::map<Key, Sequence> sequences_;
    std::deque<proto::SequenceOutput> outputs_;
};

proto::WorkerEndpoint make_endpoint(std::uint64_t worker, std::uint64_t incarnation);
proto::PlaceReply split_placement(const proto::WorkerEndpoint& prefill, const proto::WorkerEndpoint& decode);
proto::PlaceReply local_placement(const proto::WorkerEndpoint& worker);
proto::PlaceReply refusal(base::ErrorCode code, std::uint32_t retry_after_ms, std::string message = "no room");
/// Of the model "m".
proto::DescribeReply description(bool ready = true, std::uint32_t context_tokens = 4096);
/// The same of several models, whose numerics are numbered from 1.
proto::DescribeReply description_of(const std::vector<std::string>& models, std::uint32_t context_tokens = 4096);

/// Ports that only write down what was asked; the test answers by calling the RequestTable.
class RecordingPorts final : public gateway::SchedulerPort, public gateway::WorkerPort {
public:
    void place(const proto::PlaceRequest& request, base::Duration) override { placed.push_back(request); }
    void release(const proto::ReleaseRequest::Ended& ended) override { released.push_back(ended); }
    void send(const std::string& model, const proto::WorkerEndpoint& to, proto::WorkerCommand command) override {
        models.push_back(model);
        sent.emplace_back(to.incarnation(), std::move(command));
    }
    void drop_prefixes(base::Duration, std::function<void(const Dropped&)> done) override {
        drops.push_back(std::move(done));
    }
    /// Commands to one worker, in order.
    std::vector<proto::WorkerCommand> sent_to(std::uint64_t incarnation) const;

    std::vector<proto::PlaceRequest> placed;
    std::vector<proto::ReleaseRequest::Ended> released;
    std::vector<std::pair<std::uint64_t, proto::WorkerCommand>> sent;
    std::vector<std::string> models;  // of `sent`
    std::vector<std::function<void(const Dropped&)>> drops;
};

/// What the owner of one sequence was told.
class RecordingSink final : public gateway::GenerationSink {
public:
    void on_placed() override { ++placed; }
    void on_prompt(std::vector<gateway::TokenRecord> records) override { prompt = std::move(records); }
    void on_piece(gateway::Piece piece, std::uint32_t count, std::string_view) override {
        text += piece.text;
        for (const auto& record : piece.tokens) {
            tokens.push_back(record.token);
        }
        generated = count;
        if (when_piece) { when_piece(); }
    }
    void on_end(const gateway::GenerationEnd& given) override {
        ++ends;
        end = given;
    }

    int placed = 0;
    int ends = 0;
    std::uint32_t generated = 0;
    std::string text;
    Tokens tokens;
    std::vector<gateway::TokenRecord> prompt;
    gateway::GenerationEnd end;
    std::function<void()> when_piece;
};

/// Models of these names with byte text; each further name of `aliases` as in gateway.aliases.
gateway::Models make_models(const std::vector<std::string>& names, const std::vector<std::string>& aliases = {});

/// A RequestTable with recorded ports, byte text and a clock that stands still. The cluster of its one model is ready.
struct Owner {
    explicit Owner(gateway::RequestOptions options = {}, gateway::Models given = make_models({"m"}));
    gateway::GenerationRequest request(std::string_view prompt = "hello", std::uint32_t new_tokens_max = 8) const;

    base::Metrics metrics;
    base::FakeClock clock;
    RecordingPorts ports;
    ByteText text;
    gateway::Models models;
    gateway::GatewayMetrics rows;
    gateway::RequestTable table;
};

proto::SequenceOutput output(base::RequestId id, std::uint32_t epoch, std::string_view text,
                             proto::SequenceOutput::Finish finish = proto::SequenceOutput::FINISH_NONE);
proto::SequenceOutput error_output(base::RequestId id, std::uint32_t epoch, base::ErrorCode code);

/// An exchange that keeps what was answered.
class FakeExchange final : public gateway::Exchange {
public:
    void respond(gateway::HttpResponse given) override {
        ++answers;
        response = std::move(given);
    }
    void start_stream(std::string_view type, const gateway::HttpFields& fields) override {
        content_type = type;
        head = fields;
    }
    void send(std::string_view data) override {
        sends.emplace_back(data);
        streamed += data;
    }
    void end_stream() override { ++answers; }
    void cut() override { ++answers; }
    void on_gone(std::function<void(std::string_view)> callback) override { gone = std::move(callback); }
    bool is_gone() const override { return false; }
    void close_after() override { closes = true; }

    int answers = 0;
    bool closes = false;
    std::optional<gateway::HttpResponse> response;
    std::string content_type;
    gateway::HttpFields head;  // of a stream
    std::string streamed;
    std::vector<std::string> sends;
    std::function<void(std::string_view)> gone;
};

}  // namespace gateway_test
