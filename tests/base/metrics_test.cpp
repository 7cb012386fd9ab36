#include "base/metrics.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

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

TEST_CASE("the series of a lease end with it, and their family when it has no other", "[base]") {
    base::Metrics metrics;
    metrics.gauge("sluice_workers", "Workers", {{"model", "stays"}}).Set(1);
    {
        base::SeriesLease lease(metrics);
        lease.gauge("sluice_workers", "Workers", {{"model", "goes"}}).Set(2);
        auto& counter = lease.counter("sluice_decisions_total", "Decisions", {{"model", "goes"}});
        counter.Increment(3);
        lease.histogram("sluice_ratio", "Ratio", {1, 2}, {{"model", "goes"}}).Observe(1.5);
        REQUIRE(&lease.counter("sluice_decisions_total", "Decisions", {{"model", "goes"}}) == &counter);
        const std::string text = metrics.text();
        CAPTURE(text);
        REQUIRE(contains(text, "sluice_workers{model=\"goes\"} 2\n"));
        REQUIRE(contains(text, "sluice_decisions_total{model=\"goes\"} 3\n"));
        REQUIRE(contains(text, "sluice_ratio_bucket{model=\"goes\",le=\"2\"} 1\n"));
    }
    const std::string text = metrics.text();
    CAPTURE(text);
    REQUIRE(contains(text, "sluice_workers{model=\"stays\"} 1\n"));
    REQUIRE_FALSE(contains(text, "goes"));
    REQUIRE_FALSE(contains(text, "sluice_decisions_total"));
    REQUIRE_FALSE(contains(text, "sluice_ratio"));
}

TEST_CASE("a series of two leases ends with the second, and begins anew for a third", "[base]") {
    base::Metrics metrics;
    const auto ask = [](base::SeriesLease& lease) -> prometheus::Counter& {
        return lease.counter("sluice_a_total", "A", {{"x", "1"}});
    };
    auto first = std::make_unique<base::SeriesLease>(metrics);
    base::SeriesLease second(metrics);
    ask(*first).Increment();
    ask(*first).Increment();  // asked twice, held once
    ask(second).Increment();
    first.reset();
    REQUIRE(contains(metrics.text(), "sluice_a_total{x=\"1\"} 3\n"));
    second.end();
    REQUIRE_FALSE(contains(metrics.text(), "sluice_a_total"));
    ask(second).Increment();
    REQUIRE(contains(metrics.text(), "sluice_a_total{x=\"1\"} 1\n"));
}

TEST_CASE("a series that is asked for as one that stays and as one that ends stops the process", "[base]") {
    const std::string by_lease = last_words([] {
        base::Metrics metrics;
        metrics.counter("sluice_a_total", "A");
        base::SeriesLease(metrics).counter("sluice_a_total", "A");
    });
    CAPTURE(by_lease);
    REQUIRE(contains(by_lease, "sluice_a_total is asked for as one that ends"));
    const std::string to_stay = last_words([] {
        base::Metrics metrics;
        base::SeriesLease lease(metrics);
        lease.counter("sluice_a_total", "A", {{"x", "1"}});
        metrics.counter("sluice_a_total", "A", {{"x", "2"}});  // another series
        metrics.counter("sluice_a_total", "A", {{"x", "1"}});
    });
    CAPTURE(to_stay);
    REQUIRE(contains(to_stay, "sluice_a_total is asked for as one that stays"));
}

TEST_CASE("leases come and go while others read and count", "[base]") {
    base::Metrics metrics;
    std::atomic<bool> is_over{false};
    std::thread reader([&] {
        while (!is_over) {
            static_cast<void>(metrics.text());
        }
    });
    std::vector<std::thread> owners;
    for (int owner = 0; owner < 3; ++owner) {
        owners.emplace_back([&metrics, owner] {
            for (int round = 0; round < 50; ++round) {
                base::SeriesLease lease(metrics);
                lease.gauge("sluice_shared", "Shared").Set(round);
                lease.counter("sluice_own_total", "Own", {{"owner", std::to_string(owner)}}).Increment();
                metrics.counter("sluice_rounds_total", "Rounds").Increment();
            }
        });
    }
    for (std::thread& owner : owners) {
        owner.join();
    }
    is_over = true;
    reader.join();
    const std::string text = metrics.text();
    CAPTURE(text);
    REQUIRE(contains(text, "sluice_rounds_total 150\n"));
    REQUIRE_FALSE(contains(text, "sluice_shared"));
    REQUIRE_FALSE(contains(text, "sluice_own_total"));
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
