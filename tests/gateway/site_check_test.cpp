#include "gateway/http/site_check.h"

#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace {

gateway::RequestHead head(const std::string& method, const std::string& path, const gateway::HttpFields& fields) {
    gateway::RequestHead made;
    made.method = method;
    made.path = path;
    made.fields = fields;
    return made;
}

bool passes(const gateway::SiteCheck& check, const std::string& host, const std::string& origin = "",
            const std::string& method = "POST", const std::string& path = "/v1/completions") {
    gateway::HttpFields fields{{"host", host}};
    if (!origin.empty()) { fields.emplace_back("origin", origin); }
    const auto refusal = check.refusal(head(method, path, fields));
    if (refusal) { REQUIRE(refusal->status == 403u); }
    return !refusal;
}

gateway::SiteCheck make(const std::vector<std::string>& hosts, bool on_loopback,
                        const std::vector<std::string>& origins = {}) {
    return gateway::SiteCheck::make(hosts, on_loopback, gateway::Cors::make(origins).value()).value();
}

}  // namespace

TEST_CASE("on loopback a server answers to the names of this machine, and to those it is given", "[gateway][http]") {
    const auto check = make({"llm.example.org"}, true);
    for (const std::string host : {"localhost", "LocalHost:8000", "localhost.", "127.0.0.1", "127.9.8.7:1", "[::1]",
                                   "[::1]:8000", "llm.example.org", "LLM.example.org:443", "llm.example.org."}) {
        CAPTURE(host);
        CHECK(passes(check, host));
    }
    for (const std::string host :
         {"evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1",
          "[2001:db8::1]", "127.1", "0.0.0.0", "a.llm.example.org", "h"}) {
        CAPTURE(host);
        CHECK_FALSE(passes(check, host));
        CHECK_FALSE(passes(check, host, "", "GET", "/health"));
    }
    CHECK_FALSE(check.refusal(head("GET", "/health", {})));  // HTTP/1.0, and no browser
    CHECK(passes(make({"*"}, true), "evil.example"));
}

TEST_CASE("beyond loopback names count where some are given, and probes come by address", "[gateway][http]") {
    const auto any = make({}, false);
    CHECK(passes(any, "evil.example"));
    const auto check = make({"llm.example.org"}, false);
    CHECK(passes(check, "llm.example.org:8000"));
    CHECK(passes(check, "localhost"));
    CHECK_FALSE(passes(check, "10.0.0.7:8000"));
    for (const std::string path : {"/health", "/ready", "/live", "/metrics"}) {
        CAPTURE(path);
        CHECK(passes(check, "10.0.0.7:8000", "", "GET", path));
        CHECK_FALSE(passes(check, "10.0.0.7:8000", "", "POST", path));
    }
    CHECK_FALSE(passes(check, "10.0.0.7:8000", "", "GET", "/v1/models"));
}

TEST_CASE("pages of other sites change nothing", "[gateway][http]") {
    const auto check = make({}, true, {"https://chat.example.org"});
    for (const std::string origin :
         {"https://evil.example", "null", "http://localhost.evil.example", "http://localhost:3000",
          "https://localhost:8000.evil.example", "file://", "chrome-extension://abc", "x"}) {
        CAPTURE(origin);
        CHECK_FALSE(passes(check, "localhost:8000", origin));
        CHECK(passes(check, "localhost:8000", origin, "GET", "/v1/models"));  // a page cannot read it
        CHECK(
            passes(check, "localhost:8000", origin, "OPTIONS", "/v1/models"));  // a preflight, answered without consent
    }
    CHECK(passes(check, "localhost:8000", "https://chat.example.org"));
    CHECK(passes(check, "localhost:8000", "http://localhost:8000"));
    CHECK(passes(check, "LOCALHOST:8000", "https://localhost:8000"));  // TLS ended before us
    CHECK(passes(check, "localhost", "http://localhost"));
    CHECK(passes(check, "localhost:80", "http://localhost"));
    CHECK(passes(make({}, true, {"*"}), "localhost", "null"));
    // A browser sends one; whoever sends two shall not choose which is looked at.
    CHECK(check.refusal(
        head("POST", "/",
             {{"host", "localhost"}, {"origin", "https://chat.example.org"}, {"origin", "https://evil.example"}})));
}

TEST_CASE("what is no host is refused at the start, naming the setting", "[gateway][http]") {
    for (const std::string host :
         {"", "https://llm.example.org", "llm.example.org:443", "a/b", "*.example.org", "a b"}) {
        CAPTURE(host);
        const auto made = gateway::SiteCheck::make({host}, true, {});
        REQUIRE_FALSE(made);
        REQUIRE(made.error().code == base::ErrorCode::invalid_argument);
        REQUIRE(made.error().message.find("gateway.hosts") != std::string::npos);
    }
}
