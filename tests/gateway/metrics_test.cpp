#include "gateway/metrics.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "gateway/tenant_tokens.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;

std::size_t count_of(const std::string& text, const std::string& part) {
    std::size_t count = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
        ++count;
    }
    return count;
}

}  // namespace

TEST_CASE("every target of a class is an edge of the buckets, once, and of all classes alike", "[gateway][metrics]") {
    base::Metrics metrics;
    gateway::GatewayMetrics rows(metrics, {"m"}, {"default", "chat", "batch"},
                                 {{}, {.ttft = 333ms, .tpot = 30ms, .e2e = 7s}, {.ttft = 500ms, .tpot = 0ms}});
    rows.of(0).first_token(0, "local", 333ms);
    rows.of(0).first_token(1, "local", 334ms);
    const std::string text = metrics.text();
    const std::string ttft = "sluice_gateway_time_to_first_token_seconds_bucket{model=\"m\",path=\"local\",";
    CHECK(text.find(ttft + "slo_class=\"default\",le=\"0.333\"} 1") != std::string::npos);
    CHECK(text.find(ttft + "slo_class=\"chat\",le=\"0.333\"} 0") != std::string::npos);
    CHECK(count_of(text, ttft + "slo_class=\"chat\",le=\"0.5\"}") == 1);
    CHECK(
        text.find("sluice_gateway_time_per_output_token_seconds_bucket{model=\"m\",slo_class=\"batch\",le=\"0.03\"}") !=
        std::string::npos);
    CHECK(text.find("sluice_gateway_inter_token_seconds_bucket{model=\"m\",le=\"0.03\"}") != std::string::npos);
    const std::string whole = "sluice_gateway_request_duration_seconds_bucket{model=\"m\",slo_class=\"batch\",";
    CHECK(count_of(text, whole + "le=\"7\"}") == 1);
    CHECK(count_of(text, whole + "le=\"0.333\"}") == 1);
    CHECK(text.find(ttft + "slo_class=\"chat\",le=\"7\"}") == std::string::npos);
    CHECK(text.find("le=\"0\"}") == std::string::npos);  // no target is no edge
}

TEST_CASE("what a class attains is told of the window, and its aim as long as it has one", "[gateway][metrics]") {
    base::FakeClock clock;
    base::Metrics metrics;
    gateway::GatewayMetrics rows(metrics, {"m"}, {"default", "chat"}, {}, 60s);
    const auto attained = [&] {
        rows.refresh(clock.now());
        const std::string text = metrics.text();
        const std::string row = "\nsluice_gateway_slo_attainment_ratio{model=\"m\",slo_class=\"chat\"} ";
        const auto at = text.find(row);
        return at == std::string::npos ? -1.0 : std::stod(text.substr(at + row.size()));
    };
    CHECK(attained() == -1);
    for (const bool is_met : {true, true, true, false}) {
        rows.of(0).attained(1, is_met, clock.now());
    }
    CHECK(attained() == 0.75);
    clock.advance(40s);
    rows.of(0).attained(1, false, clock.now());
    CHECK(attained() == 0.6);
    clock.advance(40s);
    CHECK(attained() == 0);
    clock.advance(40s);
    CHECK(attained() == -1);  // nobody asked lately

    const std::string aim = "sluice_gateway_slo_objective_ratio{";
    CHECK(count_of(metrics.text(), aim) == 0);
    rows.aims({{"chat", 0.99}, {"default", 0.5}});
    CHECK(count_of(metrics.text(), aim) == 2);
    rows.aims({{"chat", 0.95}});
    CHECK(count_of(metrics.text(), aim + "slo_class=\"chat\"} 0.95") == 1);
    CHECK(count_of(metrics.text(), aim) == 1);
}

TEST_CASE("what promises are judged by begins at zero for every class", "[gateway][metrics]") {
    base::Metrics metrics;
    gateway::GatewayMetrics rows(metrics, {"m"}, {"default", "chat"});
    const std::string text = metrics.text();
    CHECK(count_of(text, "\nsluice_gateway_slo_requests_total{") == 2u * 5 * 2);
    CHECK(
        text.find("sluice_gateway_slo_requests_total{model=\"m\",outcome=\"bad\",slo=\"ttft\",slo_class=\"chat\"} 0") !=
        std::string::npos);
    rows.of(0).slo_request(1, "ttft", "bad");
    CHECK(metrics.text().find(
              "sluice_gateway_slo_requests_total{model=\"m\",outcome=\"bad\",slo=\"ttft\",slo_class=\"chat\"} 1") !=
          std::string::npos);
}

TEST_CASE("tenants beyond the first few are counted together", "[gateway][metrics]") {
    base::Metrics metrics;
    gateway::TenantTokens tokens(metrics, 2);
    tokens.add("empty", 0, 0, 0);  // nothing was used: no row, and no place among the first
    for (int tenant = 0; tenant < 50; ++tenant) {
        tokens.add("t" + std::to_string(tenant), 10, 4, 3);
    }
    tokens.add("t0", 1, 0, 0);
    const std::string text = metrics.text();
    const std::string row = "sluice_gateway_tenant_tokens_total{kind=";
    CHECK(text.find(row + "\"prompt\",tenant=\"t0\"} 11\n") != std::string::npos);
    CHECK(text.find(row + "\"completion\",tenant=\"t1\"} 3\n") != std::string::npos);
    CHECK(text.find(row + "\"prompt\",tenant=\"other\"} 480\n") != std::string::npos);
    CHECK(text.find(row + "\"cached_prompt\",tenant=\"other\"} 192\n") != std::string::npos);
    CHECK(count_of(text, "\n" + row) == 3u * 3);
}

TEST_CASE("the rows of a tenant whose last key is gone end, and leave room for another's", "[gateway][metrics]") {
    const auto list = [](std::set<std::string> names) {
        return std::make_shared<const std::set<std::string>>(std::move(names));
    };
    base::Metrics metrics;
    gateway::TenantTokens tokens(metrics, 2);
    tokens.set_tenants(list({"red", "blue", "green"}));
    tokens.add("red", 10, 4, 3);
    tokens.add("blue", 20, 0, 0);
    tokens.add("green", 30, 0, 0);    // the third
    tokens.add("nobody", 400, 0, 0);  // has no key
    const std::string row = "sluice_gateway_tenant_tokens_total{kind=\"prompt\",tenant=";
    CHECK(metrics.text().find(row + "\"other\"} 430\n") != std::string::npos);
    tokens.set_tenants(list({"blue", "green"}));
    CHECK(metrics.text().find("tenant=\"red\"") == std::string::npos);
    CHECK(metrics.text().find(row + "\"blue\"} 20\n") != std::string::npos);
    tokens.add("red", 1, 0, 0);  // was still under way
    tokens.add("green", 2, 0, 0);
    const std::string text = metrics.text();
    CHECK(text.find("tenant=\"red\"") == std::string::npos);
    CHECK(text.find(row + "\"green\"} 2\n") != std::string::npos);
    CHECK(text.find(row + "\"other\"} 431\n") != std::string::npos);
    // A tenant of that name shares its rows with those that have none of their own, and they stay when it goes.
    tokens.set_tenants(list({"green", "other"}));
    tokens.add("other", 100, 0, 0);
    CHECK(metrics.text().find(row + "\"other\"} 531\n") != std::string::npos);
    tokens.set_tenants(list({"green"}));
    CHECK(metrics.text().find(row + "\"other\"} 531\n") != std::string::npos);
}
