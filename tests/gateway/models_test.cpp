#include "gateway/request/models.h"

#include "gateway/tenant.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

base::Result<gateway::Models> made(const std::vector<std::string>& names, const std::vector<std::string>& aliases) {
    std::vector<gateway::ServedModel> models;
    for (const std::string& name : names) {
        models.push_back({.name = name, .text = std::make_shared<ByteText>()});
    }
    return gateway::Models::make(std::move(models), aliases);
}

gateway::RequestHead head_with(const gateway::HttpFields& fields) {
    gateway::RequestHead head;
    head.fields = fields;
    return head;
}

}  // namespace

TEST_CASE("one alias may stand for every name that nobody has", "[gateway][models]") {
    const auto any = made({"a", "b"}, {"gpt", "*=b"}).value();
    REQUIRE(any.find("gpt") == 0u);
    REQUIRE(any.find("a") == 0u);
    REQUIRE(any.find("gpt-4o-mini") == 1u);
    REQUIRE(any.find("*") == 1u);
    for (const auto& [name, model] : any.names()) {
        REQUIRE(name != "*");  // not listed
    }
    REQUIRE(made({"a", "b"}, {"*"}).value().find("x") == 0u);
    REQUIRE_FALSE(made({"a", "b"}, {"*", "*=b"}));
}

TEST_CASE("an alias names its model, or is one of the first", "[gateway][models]") {
    const auto models = made({"org/a", "b"}, {"plain", "gpt=b", "x=y", "tag=1=org/a"}).value();
    REQUIRE(models.find("org/a") == 0u);
    REQUIRE(models.find("b") == 1u);
    REQUIRE(models.find("plain") == 0u);
    REQUIRE(models.find("gpt") == 1u);
    REQUIRE(models.find("x=y") == 0u);  // y is no model
    REQUIRE(models.find("tag=1") == 0u);
    REQUIRE_FALSE(models.find("gpt=b"));
    REQUIRE_FALSE(models.find(""));
    std::vector<std::string> names;
    for (const auto& [name, model] : models.names()) {
        names.push_back(name);
    }
    REQUIRE(names == std::vector<std::string>{"org/a", "plain", "x=y", "tag=1", "b", "gpt"});
}

TEST_CASE("models need names that are unique", "[gateway][models]") {
    REQUIRE_FALSE(made({}, {}));
    REQUIRE_FALSE(made({""}, {}));
    REQUIRE_FALSE(made({"a", "a"}, {}));
    REQUIRE_FALSE(made({"a", "b"}, {"b"}));
    REQUIRE_FALSE(made({"a"}, {"x", "x"}));
    REQUIRE(made({"a", "b"}, {"b"}).error().message.find("'b'") != std::string::npos);
}

TEST_CASE("a tenant is believed from one field that a setting names", "[gateway][tenant]") {
    const auto head = head_with({{"x-tenant", "acme"}, {"x-other", "o"}});
    REQUIRE(gateway::tenant_of(head, "x-tenant") == "acme");
    REQUIRE(gateway::tenant_of(head, "") == "default");
    REQUIRE(gateway::tenant_of(head, "x-absent") == "default");
    for (const std::string& bad :
         {std::string(), std::string(65, 'a'), std::string("a b"), std::string("a\"b"), std::string("\xc3\xa9")}) {
        CAPTURE(bad);
        const auto refused = gateway::tenant_of(head_with({{"x-tenant", bad}}), "x-tenant");
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().status == 400u);
    }
    const auto twice = head_with({{"x-tenant", "mine"}, {"x-tenant", "acme"}});
    REQUIRE_FALSE(gateway::tenant_of(twice, "x-tenant"));
    REQUIRE(gateway::tenant_of(head_with({{"x-tenant", std::string(64, 'a')}}), "x-tenant"));
}
