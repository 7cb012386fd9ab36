#include "gateway/http/cors.h"

#include "tests/support/catch.h"

namespace {

gateway::Cors made(const std::vector<std::string>& origins) {
    return gateway::Cors::make(origins).value();
}

gateway::RequestHead preflight(const gateway::HttpFields& more) {
    gateway::RequestHead head;
    head.method = "OPTIONS";
    head.fields = {{"origin", "https://a.example"}, {"access-control-request-method", "POST"}};
    head.fields.insert(head.fields.end(), more.begin(), more.end());
    return head;
}

/// Values of all fields of that name, in order.
std::string values(const gateway::HttpFields& fields, std::string_view name) {
    std::string all;
    for (const auto& [key, value] : fields) {
        if (key == name) { all += (all.empty() ? "" : ", ") + value; }
    }
    return all;
}

constexpr std::string_view kOrigin = "Access-Control-Allow-Origin";
constexpr std::string_view kCredentials = "Access-Control-Allow-Credentials";

}  // namespace

TEST_CASE("without origins nothing is said", "[gateway][cors]") {
    const gateway::Cors none;
    REQUIRE(none.answer_fields("https://a.example").empty());
    REQUIRE(none.preflight_fields(preflight({}), "POST").empty());
}

TEST_CASE("an exact origin is said back, with credentials, and caches are told", "[gateway][cors]") {
    const auto cors = made({"https://a.example", "http://localhost:3000"});
    const auto fields = cors.answer_fields("https://a.example");
    REQUIRE(values(fields, kOrigin) == "https://a.example");
    REQUIRE(values(fields, kCredentials) == "true");
    REQUIRE(values(fields, "Vary") == "Origin");
    REQUIRE(values(fields, "Access-Control-Expose-Headers").find("x-request-id") != std::string::npos);
    for (const std::string other :
         {"", "https://b.example", "http://a.example", "https://a.example:8443", "https://a.example.evil.example",
          "https://sub.a.example", "null", "https://a.exampl", "HTTPS://A.EXAMPLE", "http://localhost:3001",
          "https://a.example/"}) {
        CAPTURE(other);
        CHECK(values(cors.answer_fields(other), kOrigin).empty());
        CHECK(values(cors.answer_fields(other), kCredentials).empty());
        CHECK(values(cors.answer_fields(other), "Vary") == "Origin");
    }
}

TEST_CASE("every page may ask without credentials; a named one beside it has them", "[gateway][cors]") {
    const auto any = made({"*"});
    REQUIRE(values(any.answer_fields("https://b.example"), kOrigin) == "*");
    REQUIRE(values(any.answer_fields("null"), kOrigin) == "*");
    REQUIRE(values(any.answer_fields("https://b.example"), kCredentials).empty());
    REQUIRE(values(any.answer_fields("https://b.example"), "Vary").empty());
    REQUIRE(any.answer_fields("").empty());
    const auto both = made({"*", "https://a.example"});
    REQUIRE(values(both.answer_fields("https://a.example"), kOrigin) == "https://a.example");
    REQUIRE(values(both.answer_fields("https://a.example"), kCredentials) == "true");
    REQUIRE(values(both.answer_fields("https://b.example"), kOrigin) == "*");
    REQUIRE(values(both.answer_fields("https://b.example"), kCredentials).empty());
    REQUIRE(values(both.answer_fields("https://b.example"), "Vary") == "Origin");
}

TEST_CASE("a preflight is told methods, fields and how long it holds", "[gateway][cors]") {
    const auto cors = made({"https://a.example"});
    const std::string asked = "authorization,content-type,x-stainless-lang";
    const auto fields = cors.preflight_fields(preflight({{"access-control-request-headers", asked}}), "POST, OPTIONS");
    REQUIRE(values(fields, "Access-Control-Allow-Methods") == "POST, OPTIONS");
    REQUIRE(values(fields, "Access-Control-Allow-Headers") == asked);
    REQUIRE(values(fields, "Access-Control-Max-Age") == "600");
    REQUIRE(values(fields, "Vary") == "Access-Control-Request-Method, Access-Control-Request-Headers");
    REQUIRE(values(fields, "Access-Control-Allow-Private-Network").empty());
    REQUIRE(values(cors.preflight_fields(preflight({{"access-control-request-private-network", "true"}}), "POST"),
                   "Access-Control-Allow-Private-Network") == "true");
    // What is no list of names is not said back.
    for (const std::string& bad :
         {std::string("a\tb"), std::string("a;b"), std::string("<x>"), std::string(5000, 'a')}) {
        CHECK(values(cors.preflight_fields(preflight({{"access-control-request-headers", bad}}), "POST"),
                     "Access-Control-Allow-Headers")
                  .empty());
    }
    auto twice = preflight({{"origin", "https://a.example"}});
    REQUIRE(cors.preflight_fields(twice, "POST").empty());
    auto get = preflight({});
    get.method = "GET";
    REQUIRE(cors.preflight_fields(get, "POST").empty());
    auto plain = preflight({});
    plain.fields.pop_back();
    REQUIRE(cors.preflight_fields(plain, "POST").empty());
}

TEST_CASE("origins are taken as browsers send them; what none would send is an error", "[gateway][cors]") {
    REQUIRE(values(made({"HTTPS://A.Example:443"}).answer_fields("https://a.example"), kOrigin) == "https://a.example");
    REQUIRE(values(made({"http://a.example:80"}).answer_fields("http://a.example"), kOrigin) == "http://a.example");
    REQUIRE(values(made({"http://[::1]:3000"}).answer_fields("http://[::1]:3000"), kOrigin) == "http://[::1]:3000");
    REQUIRE(values(made({"tauri://localhost"}).answer_fields("tauri://localhost"), kOrigin) == "tauri://localhost");
    for (const std::string bad :
         {"", "a.example", "https://", "https://a.example/", "https://a.example/path", "https://*.example",
          "https://a b", "null", "://a", "https://a,https://b", "ht tp://a", "https://u@a"}) {
        CAPTURE(bad);
        const auto cors = gateway::Cors::make({bad});
        REQUIRE_FALSE(cors);
        CHECK(cors.error().code == base::ErrorCode::invalid_argument);
        CHECK(cors.error().message.find("gateway.cors_origins") != std::string::npos);
    }
}
