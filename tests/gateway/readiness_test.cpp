#include <algorithm>
#include <deque>

#include "gateway/api.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

/// Text that counts how often a prompt is tokenized.
class CountingText final : public gateway::TextPort {
public:
    base::Result<void> check_grammar(const sluice::proto::Grammar&) const override { return {}; }
    base::Result<Tokens> encode(std::string_view text, bool add_special, bool parse_special,
                                std::span<const std::size_t> text_starts) const override {
        ++encoded;
        return bytes_.encode(text, add_special, parse_special, text_starts);
    }
    std::string token_bytes(base::TokenId token) const override { return bytes_.token_bytes(token); }
    std::unique_ptr<gateway::Detokenizer> detokenizer(bool skip_special) const override {
        return bytes_.detokenizer(skip_special);
    }
    base::Result<std::string> render_chat(std::string_view context_json, std::int64_t now_unix_s) const override {
        return bytes_.render_chat(context_json, now_unix_s);
    }
    const gateway::SpecialTexts& special_texts() const override { return bytes_.special_texts(); }
    const Tokens& eos_ids() const override { return bytes_.eos_ids(); }
    std::optional<base::TokenId> bos() const override { return bytes_.bos(); }
    bool takes_tools() const override { return bytes_.takes_tools(); }
    std::vector<std::pair<std::string, std::string>> named_tokens() const override { return bytes_.named_tokens(); }
    std::uint32_t vocabulary() const override { return bytes_.vocabulary(); }
    const gateway::SamplingDefaults& sampling_defaults() const override { return bytes_.sampling_defaults(); }

    mutable int encoded = 0;

private:
    ByteText bytes_;
};

/// The routes over a table that has heard nothing of the cluster yet. Posted work waits for run().
struct World {
    ~World() {
        api.give_up_all();
        run();
    }
    void run() {
        while (!posted.empty()) {
            const auto work = std::move(posted.front());
            posted.pop_front();
            work();
        }
    }
    std::shared_ptr<FakeExchange> send() {
        gateway::HttpRequest request;
        request.head.method = "POST";
        request.head.path = "/v1/completions";
        request.head.fields = {{"content-type", "application/json"}};
        request.body = R"({"prompt":"hello"})";
        request.received_at = clock.now();
        auto exchange = std::make_shared<FakeExchange>();
        api.handle(std::move(request), exchange);
        return exchange;
    }

    gateway::GatewayOptions options;
    base::Metrics metrics;
    gateway::GatewayMetrics rows{metrics, {"m"}};
    base::FakeClock clock;
    gateway::RequestLog log{{.kind = gateway::AccessLogKind::off, .metrics = rows, .clock = clock, .sink = {}}};
    gateway::Cors cors;
    RecordingPorts ports;
    std::shared_ptr<CountingText> text = std::make_shared<CountingText>();
    gateway::Models models = gateway::Models::make({{.name = "m", .text = text}}, {}).value();
    std::deque<std::function<void()>> posted;
    gateway::RequestTable table{{.scheduler = ports,
                                 .workers = ports,
                                 .models = models,
                                 .clock = clock,
                                 .metrics = rows,
                                 .options = {},
                                 .hash_key = {},
                                 .seed = 5}};
    gateway::Api api{{.options = options,
                      .models = models,
                      .hash_key = {},
                      .table = table,
                      .source = table,
                      .workers = ports,
                      .rewriters = {},
                      .metrics = rows,
                      .log = log,
                      .clock = clock,
                      .post = [this](std::function<void()> work) { posted.push_back(std::move(work)); },
                      .post_text = [this](const std::string&, std::uint64_t,
                                          std::function<void()> work) { posted.push_back(std::move(work)); },
                      .load = [] { return gateway::HttpServer::Load{}; },
                      .cors = cors,
                      .version = "1"}};
};

bool says_when_to_come_again(const FakeExchange& exchange) {
    const auto& fields = exchange.response.value().fields;
    return std::find(fields.begin(), fields.end(), std::pair<std::string, std::string>("Retry-After", "1")) !=
           fields.end();
}

}  // namespace

TEST_CASE("a cluster that never had workers is not ready, instead of having no room for any prompt", "[gateway][api]") {
    World world;
    const auto unknown = world.send();
    REQUIRE(unknown->response.value().status == 503u);
    world.table.on_cluster(description(false, 0));
    const auto empty = world.send();
    REQUIRE(empty->response.value().status == 503u);
    REQUIRE(says_when_to_come_again(*empty));
    world.table.on_cluster(description(true));
    const auto taken = world.send();
    world.run();
    REQUIRE_FALSE(taken->response);
    REQUIRE(world.ports.placed.size() == 1u);
}

TEST_CASE("the limits of a cluster outlive its workers", "[gateway][table]") {
    World world;
    world.table.on_cluster(description(true, 4096));
    auto none = description(false, 0);
    none.mutable_models(0)->set_block_tokens(0);
    world.table.on_cluster(none);
    REQUIRE_FALSE(world.table.cluster(0).ready);
    REQUIRE(world.table.cluster(0).context_tokens == 4096u);
    REQUIRE(world.table.cluster(0).block_tokens == 4u);
    const auto asked = world.send();  // the scheduler says what becomes of it
    world.run();
    REQUIRE(world.ports.placed.size() == 1u);
    world.table.on_cluster(description(true, 1024));
    REQUIRE(world.table.cluster(0).context_tokens == 1024u);
}

TEST_CASE("a request whose time is over while it waits for a text thread is not prepared", "[gateway][api]") {
    World world;
    world.table.on_cluster(description());
    const auto late = world.send();
    world.clock.advance(world.options.request_timeout);
    world.run();
    REQUIRE(late->response.value().status == 504u);
    REQUIRE(world.text->encoded == 0);
    REQUIRE(world.api.in_flight() == 0u);
    REQUIRE(world.metrics.text().find("outcome=\"rejected_timeout\"") != std::string::npos);
}

TEST_CASE("a request that waits for a text thread when draining begins is not prepared", "[gateway][api]") {
    World world;
    world.table.on_cluster(description());
    const auto waiting = world.send();
    world.api.drain({});
    world.run();
    REQUIRE(waiting->response.value().status == 503u);
    REQUIRE(says_when_to_come_again(*waiting));
    REQUIRE(world.text->encoded == 0);
    REQUIRE(world.api.in_flight() == 0u);
}
