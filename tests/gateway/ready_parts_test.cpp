// What is told of why a process is not ready, and to whom.
#include "gateway/http/ready_parts.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/keys/key_keeper.h"
#include "tests/gateway/api_world.h"

namespace {

using namespace gateway_test;
using gateway::ReadyPart;
using gateway::ReadyParts;

gateway::ApiKey key_of(const std::string& secret, std::vector<std::string> scopes) {
    gateway::ApiKey key;
    key.id = key.tenant = secret.substr(0, 4);
    key.digest = gateway::digest_of_key(secret);
    key.scopes = std::move(scopes);
    return key;
}

/// Of two models, of which the second one has no workers.
void describe(World& world) {
    sluice::proto::DescribeReply cluster;
    for (const std::string name : {"a", "b"}) {
        sluice::proto::ModelState& state = *cluster.add_models();
        state.set_model(name);
        state.set_block_tokens(4);
        state.set_context_tokens(100);
        state.set_ready(name == "a");
    }
    world.owner.table.on_cluster(cluster);
}

/// With a query.
std::shared_ptr<FakeExchange> get(World& world, const std::string& path, const std::string& query = "",
                                  const gateway::HttpFields& fields = {}) {
    gateway::HttpRequest request;
    request.head.method = "GET";
    request.head.path = request.head.sent_path = path;
    request.head.query = query;
    request.head.fields = fields;
    request.received_at = world.owner.clock.now();
    auto exchange = std::make_shared<FakeExchange>();
    world.api->handle(std::move(request), exchange);
    return exchange;
}

}  // namespace

TEST_CASE("parts are told a line each, and one that lacks makes all unready", "[gateway][ready]") {
    REQUIRE(gateway::are_ready(ReadyParts()));
    REQUIRE(gateway::ready_text(ReadyParts()) == "ready\n");
    const ReadyParts sound{{.name = "model"}, {.name = "scheduler", .words = "knows it"}};
    REQUIRE(gateway::are_ready(sound));
    REQUIRE(gateway::ready_text(sound) == "[+]model\n[+]scheduler: knows it\nready\n");
    const ReadyParts lacking{{.name = "model"}, {.name = "scheduler", .is_ready = false, .words = "is away"}};
    REQUIRE_FALSE(gateway::are_ready(lacking));
    REQUIRE(gateway::ready_text(lacking) == "[+]model\n[-]scheduler: is away\nnot ready\n");
}

TEST_CASE("a query asks for parts by a name alone", "[gateway][ready]") {
    for (const char* query : {"verbose", "verbose=1", "a=b&verbose", "verbose&a", "verbose="}) {
        CAPTURE(query);
        REQUIRE(gateway::asks_for_parts(query));
    }
    for (const char* query : {"", "a", "verbos", "verbosee", "a=verbose", "&&", "VERBOSE"}) {
        CAPTURE(query);
        REQUIRE_FALSE(gateway::asks_for_parts(query));
    }
}

TEST_CASE("a gateway tells which model has no workers", "[gateway][ready]") {
    World world({}, make_models({"a", "b"}));
    SECTION("where one lacks workers") {
        describe(world);
        const auto told = get(world, "/v1/ready", "verbose=1");
        REQUIRE(told->response->status == 503u);
        REQUIRE(told->response->content_type == "text/plain; charset=utf-8");
        REQUIRE(told->response->body ==
                "[+]requests: taken\n[+]model a: its workers are there\n"
                "[-]model b: no workers for both phases\nnot ready\n");
        REQUIRE(get(world, "/ready")->response->content_type == "application/json");
        REQUIRE(get(world, "/health", "verbose")->response->content_type == "application/json");
    }
    SECTION("at its end") {
        describe(world);
        world.api->drain([] {});
        const auto told = get(world, "/ready", "verbose");
        REQUIRE(told->response->status == 503u);
        REQUIRE(told->response->body.starts_with("[-]requests: the gateway is draining\n"));
    }
}

TEST_CASE("strangers and users learn whether it is ready, and nothing else", "[gateway][ready][keys]") {
    World world({}, make_models({"a", "b"}));
    const auto keeper = gateway::KeyKeeper::of({key_of("operator's", {"admin"}), key_of("user's", {"chat", "models"})},
                                               world.owner.clock, world.owner.metrics);
    world.use_keys(keeper.get());
    describe(world);
    const auto ask = [&](const std::string& query, const std::string& secret) {
        gateway::HttpFields fields;
        if (!secret.empty()) { fields.emplace_back("authorization", "Bearer " + secret); }
        return get(world, "/ready", query, fields);
    };
    for (const char* secret : {"", "somebody's", "user's"}) {
        CAPTURE(secret);
        const auto plain = ask("", secret);
        const auto verbose = ask("verbose", secret);
        REQUIRE(verbose->response->status == 503u);
        REQUIRE(verbose->response->status == plain->response->status);
        REQUIRE(verbose->response->body == plain->response->body);
        // Who has a key may know which models there are.
        REQUIRE((plain->response->body.find("b: ") != std::string::npos) == (secret == std::string("user's")));
    }
    REQUIRE(ask("verbose", "operator's")->response->body.starts_with("[+]requests: taken\n"));
    // Asking is no failure.
    REQUIRE(world.owner.metrics.text().find("sluice_gateway_auth_failures_total{") == std::string::npos);
}
