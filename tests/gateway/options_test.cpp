#include "gateway/options.h"

#include "tests/support/catch.h"

TEST_CASE("every setting has its bounds and its unit in its name", "[gateway]") {
    base::Config config;
    REQUIRE(config.add_text(
        "gateway:\n  port: 0\n  n_max: 4\n  aliases: [a, b]\n  request_timeout_ms: 1500\n  listen_public: true\n"
        "  tenant_header: X-Tenant\n  retry_percent: 50\n  retry_floor_per_s: 3\n",
        "test"));
    const auto options = gateway::GatewayOptions::read(config);
    REQUIRE(config.finish());
    REQUIRE(options.http.port == 0);
    REQUIRE(options.form.n_max == 4u);
    REQUIRE(options.aliases == std::vector<std::string>{"a", "b"});
    REQUIRE(options.request_timeout == std::chrono::milliseconds(1500));
    REQUIRE(options.http.allow_public);
    REQUIRE(options.tenant_header == "x-tenant");
    REQUIRE(options.request.retries.share == 0.5);
    REQUIRE(options.request.retries.floor_per_s == 3);
    REQUIRE(options.http.limits.body_bytes_max == 32u * 1024 * 1024);
    REQUIRE(options.form.text_bytes_max == 16u * 1024 * 1024);
    REQUIRE(options.form.logprob_records_max == 4'000'000u);
    REQUIRE(options.http.limits.header_bytes_max == 32u * 1024);
}

TEST_CASE("the names of reasoning are one of four choices", "[gateway]") {
    using gateway::ReasoningFields;
    for (const auto& [text, fields] : {std::pair{"both", ReasoningFields::both},
                                       {"reasoning_content", ReasoningFields::reasoning_content},
                                       {"reasoning", ReasoningFields::reasoning},
                                       {"none", ReasoningFields::none}}) {
        base::Config config;
        REQUIRE(config.set("gateway.reasoning_fields=" + std::string(text)));
        REQUIRE(gateway::GatewayOptions::read(config).reasoning_fields == fields);
        REQUIRE(config.finish());
    }
    base::Config config;
    REQUIRE(config.set("gateway.reasoning_fields=thoughts"));
    gateway::GatewayOptions::read(config);
    REQUIRE_FALSE(config.finish());
}

TEST_CASE("lists are given as YAML or with commas", "[gateway]") {
    base::Config config;
    REQUIRE(config.set("gateway.aliases=gpt-4o-mini"));
    REQUIRE(config.set("gateway.cors_origins=https://a.example, http://localhost:3000"));
    REQUIRE(config.set("gateway.access_log=api"));
    REQUIRE(config.set("gateway.usage_in_streams=true"));
    auto options = gateway::GatewayOptions::read(config);
    REQUIRE(config.finish());
    REQUIRE(options.aliases == std::vector<std::string>{"gpt-4o-mini"});
    REQUIRE(options.cors_origins == std::vector<std::string>{"https://a.example", "http://localhost:3000"});
    REQUIRE(options.access_log == gateway::AccessLogKind::api);
    REQUIRE(options.usage_in_streams);
    REQUIRE(config.set("gateway.aliases=[a, '*=b']"));
    REQUIRE(config.set("gateway.cors_origins="));
    options = gateway::GatewayOptions::read(config);
    REQUIRE(options.aliases == std::vector<std::string>{"a", "*=b"});
    REQUIRE(options.cors_origins.empty());
    const gateway::GatewayOptions defaults;
    REQUIRE(defaults.cors_origins.empty());
    REQUIRE(defaults.access_log == gateway::AccessLogKind::all);
    REQUIRE_FALSE(defaults.usage_in_streams);
}

TEST_CASE("a setting out of its bounds is an error that names it", "[gateway]") {
    base::Config config;
    REQUIRE(config.set("gateway.n_max=0"));
    REQUIRE(config.set("gateway.port=70000"));
    gateway::GatewayOptions::read(config);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished);
    REQUIRE(finished.error().message.find("gateway.n_max") != std::string::npos);
    REQUIRE(finished.error().message.find("gateway.port") != std::string::npos);
}
