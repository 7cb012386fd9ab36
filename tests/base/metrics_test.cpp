#include "base/metrics.h"

#include <algorithm>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/last_words.h"

using test_support::last_words;

namespace {

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("metrics come out in the text format of Prometheus", "[base]") {
    base::Metrics metrics;
    metrics.counter("sluice_requests_total", "Requests", {{"status", "ok"}}).Increment(3);
    metrics.counter("sluice_requests_total", "Requests", {{"status", "error"}}).Increment();
    metrics.gauge("sluice_worker_kv_blocks", "Blocks", {{"state", "used"}}).Set(7);
    auto& histogram = metrics.histogram("sluice_ttft_seconds", "TTFT", {0.1, 1});
    histogram.Observe(0.05);
    histogram.Observe(0.5);
    histogram.Observe(5);
    const std::string text = metrics.text();
    CAPTURE(text);
    REQUIRE(contains(text, "# HELP sluice_requests_total Requests\n# TYPE sluice_requests_total counter\n"));
    REQUIRE(contains(text, "sluice_requests_total{status=\"ok\"} 3\n"));
    REQUIRE(contains(text, "sluice_requests_total{status=\"error\"} 1\n"));
    REQUIRE(contains(text, "sluice_worker_kv_blocks{state=\"used\"} 7\n"));
    REQUIRE(contains(text, "sluice_ttft_seconds_bucket{le=\"0.1\"} 1\n"));
    REQUIRE(contains(text, "sluice_ttft_seconds_bucket{le=\"1\"} 2\n"));
    REQUIRE(contains(text, "sluice_ttft_seconds_bucket{le=\"+Inf\"} 3\n"));
    REQUIRE(contains(text, "sluice_ttft_seconds_count 3\n"));
}

TEST_CASE("asking again for a metric gives the same one", "[base]") {
    base::Metrics metrics;
    auto& first = metrics.counter("sluice_a_total", "A", {{"x", "1"}});
    REQUIRE(&metrics.counter("sluice_a_total", "A", {{"x", "1"}}) == &first);
    REQUIRE(&metrics.counter("sluice_a_total", "A", {{"x", "2"}}) != &first);
}

TEST_CASE("a name that is asked for as two types stops the process and says which", "[base]") {
    const auto words = last_words([] {
        base::Metrics metrics;
        metrics.counter("sluice_a_total", "A");
        metrics.gauge("sluice_a_total", "A");
    });
    CAPTURE(words);
    REQUIRE(contains(words, "sluice_a_total is a counter and was asked for as a gauge"));
    REQUIRE(contains(last_words([] {
                         base::Metrics metrics;
                         metrics.gauge("sluice_b", "B");
                         metrics.histogram("sluice_b", "B", {1, 2});
                     }),
                     "sluice_b is a gauge and was asked for as a histogram"));
}

TEST_CASE("label values are escaped", "[base]") {
    base::Metrics metrics;
    metrics.counter("sluice_a_total", "A", {{"x", "a\"b\\c\nd"}}).Increment();
    REQUIRE(contains(metrics.text(), "sluice_a_total{x=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

TEST_CASE("the process reports itself", "[base]") {
    const std::string text = base::Metrics().text();
    for (const char* name : {"process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds ",
                             "process_start_time_seconds "}) {
        CAPTURE(name, text);
        const auto at = text.find(std::string("\n") + name);
        REQUIRE(at != std::string::npos);
        const double value = std::stod(text.substr(at + 1 + std::string(name).size()));
        REQUIRE(value >= 0);
    }
    REQUIRE(text.back() == '\n');
}

TEST_CASE("bucket edges ascend", "[base]") {
    for (const auto& edges : {base::ttft_edges(), base::tpot_edges(), base::decision_edges()}) {
        REQUIRE_FALSE(edges.empty());
        REQUIRE(edges.front() > 0);
        REQUIRE(std::adjacent_find(edges.begin(), edges.end(), [](double a, double b) { return a >= b; }) ==
                edges.end());
    }
}
