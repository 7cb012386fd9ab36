#include "worker/messages.h"

#include "proto/version.h"

#include "tests/support/catch.h"

namespace {

sluice::proto::Start make_start() {
    sluice::proto::Start start;
    start.set_request_id(77);
    start.set_epoch(2);
    start.set_part(sluice::proto::Start::PART_WHOLE);
    start.add_prompt(1);
    start.mutable_stop()->set_new_tokens_max(5);
    start.mutable_sampling()->set_top_p(1);
    start.mutable_sampling()->set_repetition_penalty(1);
    return start;
}

}  // namespace

TEST_CASE("a Start is read field by field", "[worker]") {
    const base::FakeClock clock;
    auto message = make_start();
    message.add_generated(9);
    message.mutable_sampling()->set_temperature(0.5);
    message.mutable_sampling()->set_seed(123);
    (*message.mutable_sampling()->mutable_logit_bias())[4] = -2;
    (*message.mutable_sampling()->mutable_logit_bias())[2] = 7;
    message.mutable_stop()->add_stop_token_ids(3);
    message.set_cache_scope("tenant");
    message.set_tenant("somebody");
    message.set_tenant_tokens(12.5);
    message.set_priority(-2);
    message.set_deadline_in_us(1'000'000);
    message.mutable_kv_mode()->set_codec("test");
    message.mutable_kv_mode()->set_lossy(true);
    const auto start = worker::read_start(message, worker::GatewayId{5}, clock);
    REQUIRE(start.has_value());
    REQUIRE(start->key == worker::RequestKey{base::RequestId{77}, base::Epoch{2}});
    REQUIRE(start->gateway == worker::GatewayId{5});
    REQUIRE(start->generated == std::vector<base::TokenId>{9});
    REQUIRE(start->sampling.temperature == 0.5f);
    REQUIRE(start->sampling.seed == 123);
    REQUIRE(start->sampling.logit_bias == std::vector<std::pair<base::TokenId, float>>{{2, 7.0f}, {4, -2.0f}});
    REQUIRE(start->stop.stop_tokens == std::vector<base::TokenId>{3});
    REQUIRE(start->cache_scope == "tenant");
    REQUIRE(start->tenant == "somebody");
    REQUIRE(start->tenant_tokens == 12.5);
    REQUIRE(start->priority == -2);
    message.clear_tenant();
    REQUIRE(worker::read_start(message, worker::GatewayId{5}, clock)->tenant == "default");
    REQUIRE(*start->deadline == clock.now() + std::chrono::seconds(1));
    REQUIRE(start->kv_mode.codec() == "test");
    REQUIRE(start->kv_mode.lossy());
}

TEST_CASE("a Start may name a worker that has KV; one without a life is none", "[worker]") {
    const base::FakeClock clock;
    auto message = make_start();
    REQUIRE_FALSE(worker::read_start(message, worker::GatewayId{1}, clock)->kv_source);
    auto& source = *message.mutable_kv_source();
    source.mutable_worker()->set_kv_address("there");
    REQUIRE_FALSE(worker::read_start(message, worker::GatewayId{1}, clock)->kv_source);
    source.mutable_worker()->set_incarnation(5);
    const auto whole = worker::read_start(message, worker::GatewayId{1}, clock);
    REQUIRE(whole->kv_source);
    REQUIRE(whole->kv_source->worker.incarnation == base::Incarnation{5});
    REQUIRE(whole->kv_source->worker.kv_address == "there");
    REQUIRE(whole->kv_source->kv_tokens == 0xffffffff);
    REQUIRE_FALSE(whole->kv_source->give_up);
    source.set_kv_tokens(64);
    source.set_give_up_in_us(2'000'000);
    const auto part = worker::read_start(message, worker::GatewayId{1}, clock);
    REQUIRE(part->kv_source->kv_tokens == 64);
    REQUIRE(*part->kv_source->give_up == clock.now() + std::chrono::seconds(2));
}

TEST_CASE("a Start without a part, or split without a peer, is refused", "[worker]") {
    const base::FakeClock clock;
    auto message = make_start();
    message.set_part(sluice::proto::Start::PART_UNSPECIFIED);
    REQUIRE(worker::read_start(message, worker::GatewayId{1}, clock).error().code == base::ErrorCode::invalid_argument);
    message.set_part(sluice::proto::Start::PART_DECODE);
    REQUIRE(worker::read_start(message, worker::GatewayId{1}, clock).error().code == base::ErrorCode::invalid_argument);
    message.mutable_peer()->set_incarnation(4);
    REQUIRE(worker::read_start(message, worker::GatewayId{1}, clock).has_value());
}

TEST_CASE("a Start may say what the tokens keep to, in a kind that is known", "[worker]") {
    const base::FakeClock clock;
    auto message = make_start();
    REQUIRE(!worker::read_start(message, worker::GatewayId{3}, clock)->grammar);
    REQUIRE(!worker::read_start(message, worker::GatewayId{3}, clock)->reasoning);
    message.mutable_reasoning()->set_begin_token(5);
    message.mutable_reasoning()->set_end_token(6);
    REQUIRE(worker::read_start(message, worker::GatewayId{3}, clock)->reasoning ==
            base::ReasoningRule{.begin = 5, .end = 6});
    message.mutable_reasoning()->set_is_begun(true);
    message.mutable_reasoning()->set_tokens_max(0);
    REQUIRE(worker::read_start(message, worker::GatewayId{3}, clock)->reasoning ==
            base::ReasoningRule{.begin = 5, .end = 6, .is_begun = true, .tokens_max = 0});
    message.mutable_grammar()->set_kind(sluice::proto::Grammar::KIND_REGEX);
    message.mutable_grammar()->set_text("[a-z]");
    const auto start = worker::read_start(message, worker::GatewayId{3}, clock);
    REQUIRE(start);
    REQUIRE(start->grammar == engine::GrammarSpec{engine::GrammarKind::regex, "[a-z]"});
    for (const int kind : {0, 77}) {
        message.mutable_grammar()->set_kind(static_cast<sluice::proto::Grammar::Kind>(kind));
        const auto refused = worker::read_start(message, worker::GatewayId{3}, clock);
        REQUIRE(!refused);
        REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
    }
}

TEST_CASE("a header of another version, model or numerics is refused", "[worker]") {
    worker::WorkerIdentity identity;
    identity.model = "m";
    identity.numerics_id = 3;
    auto header = worker::make_header(identity);
    REQUIRE(worker::check_header(header, identity).has_value());
    header.set_numerics_id(0);  // a gateway that does not know yet
    REQUIRE(worker::check_header(header, identity).has_value());
    header.set_numerics_id(4);
    REQUIRE(!worker::check_header(header, identity).has_value());
    header = worker::make_header(identity);
    header.set_model("other");
    REQUIRE(!worker::check_header(header, identity).has_value());
    header = worker::make_header(identity);
    header.set_protocol_version(proto::kProtocolVersion + 1);
    REQUIRE(!worker::check_header(header, identity).has_value());
}

TEST_CASE("an output is written with its tokens, finish and error", "[worker]") {
    worker::SequenceOutput output;
    output.key = {base::RequestId{8}, base::Epoch{1}};
    engine::SampledToken token;
    token.token = 12;
    token.logprob = -0.5f;
    token.top = {{12, -0.5f}, {3, -1.5f}};
    output.tokens = {token};
    output.finish = worker::Finish::error;
    output.error = base::Error{base::ErrorCode::resource_exhausted, "full"};
    sluice::proto::SequenceOutput message;
    worker::write_output(output, message);
    REQUIRE(message.request_id() == 8);
    REQUIRE(message.epoch() == 1);
    REQUIRE(message.tokens(0).token() == 12);
    REQUIRE(message.tokens(0).top_size() == 2);
    REQUIRE(message.finish() == sluice::proto::SequenceOutput::FINISH_ERROR);
    REQUIRE(message.error().code() == 8);
    REQUIRE(message.error().message() == "full");
}
