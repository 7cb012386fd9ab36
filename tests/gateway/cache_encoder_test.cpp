// Similar questions by the vectors of an encoder that the cluster serves, through the routes.
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/gateway/cache_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;

const std::string kAsked = "How do I list hidden files in a folder?";
const std::string kReworded = "How can I list hidden files in a folder?";
const std::string kOther = "How do I delete a branch of my repository?";

gateway::Models with_encoder() {
    std::vector<gateway::ServedModel> models;
    models.push_back({.name = "m", .text = std::make_shared<ByteText>()});
    models.push_back({.name = "e", .text = std::make_shared<ByteText>(), .kind = gateway::ModelKind::vectors});
    return gateway::Models::make(std::move(models), {}).value();
}

gateway::GatewayOptions similar_by_encoder() {
    gateway::GatewayOptions options = CacheWorld::equal_only();
    options.cache.semantic.semantic = true;
    options.cache.semantic.shadow_share = 0;
    options.cache.lookup_timeout = 1h;  // of a clock that stands still
    options.cache.encoder = "e";
    return options;
}

struct EncoderWorld : CacheWorld {
    explicit EncoderWorld(gateway::GatewayOptions given = similar_by_encoder())
        : CacheWorld(std::move(given), with_encoder()) {
        describe(5);
    }
    /// The encoder's workers have these weights.
    void describe(std::uint64_t weights) {
        proto::DescribeReply reply = description();
        proto::ModelState& state = *reply.add_models();
        state.set_model("e");
        state.set_numerics_id(weights);
        state.set_context_tokens(64);
        state.set_ready(true);
        owner.table.on_cluster(reply);
    }
    std::shared_ptr<FakeExchange> chat(const std::string& text, const std::string& tenant = "a") {
        return send("POST", "/v1/chat/completions",
                    R"({"temperature":0,"messages":[{"role":"user","content":")" + text + R"("}]})",
                    {{"x-tenant", tenant}});
    }
    bool is_encode(std::size_t number) const { return owner.ports.placed.at(number).encode(); }
    /// The `number`-th that was asked a place for is there and wants a vector, which is given.
    void encode(std::size_t number, const std::vector<float>& vector) {
        REQUIRE(run_until([&] { return runs() > number; }));
        REQUIRE(is_encode(number));
        place(number);
        proto::SequenceOutput output;
        output.set_request_id(owner.ports.placed.at(number).request_id());
        output.set_epoch(owner.ports.placed.at(number).epoch());
        output.mutable_vector()->Assign(vector.begin(), vector.end());
        output.set_finish(proto::SequenceOutput::FINISH_STOP);
        owner.table.on_output(base::Incarnation{20}, output);
        run();
    }
    /// Likewise, and wants text.
    void generate(std::size_t number, std::string_view text) {
        REQUIRE(run_until([&] { return runs() > number; }));
        REQUIRE_FALSE(is_encode(number));
        answer(text, number);
    }
    bool is_hit(const std::shared_ptr<FakeExchange>& exchange) {
        const std::size_t before = runs();
        REQUIRE(run_until([&] { return exchange->response.has_value() || runs() > before; }));
        return exchange->response.has_value() && header(*exchange, "x-cache") == "HIT";
    }
};

}  // namespace

TEST_CASE("an encoder of the cluster says which questions are alike, each text once and each tenant apart",
          "[gateway][cache]") {
    EncoderWorld world;
    world.chat(kAsked);
    world.encode(0, {1, 0});
    world.generate(1, "ls -a");
    const auto reworded = world.chat(kReworded);
    world.encode(2, {1, 0});
    REQUIRE(world.is_hit(reworded));
    CHECK(header(*reworded, "x-cache-kind") == "semantic");
    const auto again = world.chat(kReworded);
    CHECK(world.is_hit(again));
    CHECK(world.runs() == 3);  // its vector was there
    world.chat(kReworded, "b");
    world.encode(3, {1, 0});  // and is not for another tenant
    world.generate(4, "dir");
}

TEST_CASE("the same words are another question where the encoder says so", "[gateway][cache]") {
    EncoderWorld world;
    world.chat(kAsked);
    world.encode(0, {1, 0});
    world.generate(1, "ls -a");
    world.chat(kReworded);
    world.encode(2, {-1, 0});
    world.generate(3, "find");
}

TEST_CASE("vectors of an encoder with other weights are not compared with those of before", "[gateway][cache]") {
    EncoderWorld world;
    world.chat(kAsked);
    world.encode(0, {1, 0});
    world.generate(1, "ls -a");
    world.describe(6);
    world.chat(kReworded);
    world.encode(2, {1, 0, 0});
    world.generate(3, "ls -A");
    const auto third = world.chat("How could I list hidden files in a folder?");
    world.encode(4, {1, 0, 0});
    REQUIRE(world.is_hit(third));
    CHECK(body(*third).at("choices").at(0).at("message").at("content") == "ls -A");
}

TEST_CASE("vectors of another length, or none, are misses", "[gateway][cache]") {
    EncoderWorld world;
    world.chat(kAsked);
    world.encode(0, {1, 0});
    world.generate(1, "ls -a");
    const auto reworded = world.chat(kReworded);
    SECTION("longer") {
        world.encode(2, {1, 0, 0});
        world.generate(3, "find");
    }
    SECTION("no numbers") {
        world.encode(2, {std::numeric_limits<float>::quiet_NaN(), 0});
        world.generate(3, "find");
    }
    SECTION("failed") {
        REQUIRE(world.run_until([&] { return world.runs() == 3; }));
        world.place(2);
        world.owner.table.on_output(base::Incarnation{20},
                                    error_output(world.id(2), 0, base::ErrorCode::invalid_argument));
        world.generate(3, "find");
    }
    CHECK(body(*reworded).at("choices").at(0).at("message").at("content") == "find");
    CHECK(world.is_hit(world.chat(kReworded)));  // an equal request needs no vector
    CHECK(world.runs() == 4);
}

TEST_CASE("a vector that takes too long is not waited for, and the question is kept with it all the same",
          "[gateway][cache]") {
    gateway::GatewayOptions options = similar_by_encoder();
    options.cache.lookup_timeout = 20ms;
    EncoderWorld world(options);
    world.chat(kAsked);
    REQUIRE(world.runs() == 1);
    world.owner.clock.advance(20ms);
    world.cache->tick(world.owner.clock.now());
    REQUIRE(world.runs() == 2);
    CHECK_FALSE(world.is_encode(1));
    world.encode(0, {1, 0});
    // Its search is on its way through the cache's thread: the next one's is behind it.
    world.chat(kOther);
    world.encode(2, {0, 1});
    world.generate(3, "git branch -D");
    world.generate(1, "ls -a");
    const auto reworded = world.chat(kReworded);
    world.encode(4, {1, 0});
    CHECK(world.is_hit(reworded));
}

TEST_CASE("questions are purged by meaning while their encoder is away", "[gateway][cache]") {
    gateway::GatewayOptions options = similar_by_encoder();
    options.cache.from_anywhere = true;
    EncoderWorld world(options);
    world.chat(kAsked);
    world.encode(0, {1, 0});
    world.generate(1, "ls -a");
    world.chat(kOther);
    world.encode(2, {0, 1});
    world.generate(3, "git branch -D");
    const auto purge = [&](const std::string& near) {
        const auto exchange =
            world.send("POST", "/cache/purge", R"({"near_text":")" + near + R"(","near_similarity":0.7})");
        REQUIRE(world.run_until([&] { return exchange->response.has_value(); }));
        return body(*exchange).at("similar").to_number<int>();
    };
    CHECK(purge("Where is my order?") == 0);
    CHECK(purge(kReworded) == 1);
    CHECK(purge(kReworded) == 0);
}

TEST_CASE("an encoder that is not served is refused by name", "[gateway][cache]") {
    gateway::CacheOptions options = similar_by_encoder().cache;
    options.enabled = true;
    std::vector<gateway::ServedModel> models;
    models.push_back({.name = "m", .text = nullptr});
    models.push_back({.name = "e", .text = nullptr, .kind = gateway::ModelKind::vectors});
    CHECK(gateway::check_question_encoder(options, models));
    for (const char* wrong : {"m", "f"}) {
        options.encoder = wrong;
        const auto checked = gateway::check_question_encoder(options, models);
        REQUIRE_FALSE(checked);
        CHECK(checked.error().message.find("name one of: e") != std::string::npos);
    }
    options.semantic.semantic = false;
    CHECK(gateway::check_question_encoder(options, models));
}
