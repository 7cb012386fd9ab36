#include "gateway/metrics.h"

#include <algorithm>
#include <string>

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
                                 {{}, {.ttft = 333ms, .tpot = 30ms}, {.ttft = 500ms, .tpot = 0ms}});
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
    CHECK(text.find("le=\"0\"}") == std::string::npos);  // no target is no edge
}

TEST_CASE("what promises are judged by begins at zero for every class", "[gateway][metrics]") {
    base::Metrics metrics;
    gateway::GatewayMetrics rows(metrics, {"m"}, {"default", "chat"});
    const std::string text = metrics.text();
    CHECK(count_of(text, "\nsluice_gateway_slo_requests_total{") == 2u * 4 * 2);
    CHECK(
        text.find("sluice_gateway_slo_requests_total{model=\"m\",outcome=\"bad\",slo=\"ttft\",slo_class=\"chat\"} 0") !=
        std::string::npos);
    rows.of(0).slo_request(1, "ttft", "bad");
    CHECK(metrics.text().find(
              "sluice_gateway_slo_requests_total{model=\"m\",outcome=\"bad\",slo=\"ttft\",slo_class=\"chat\"} 1") !=
          std::string::npos);
}
