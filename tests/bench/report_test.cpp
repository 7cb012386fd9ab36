#include "bench/report.h"

#include <vector>

#include "tests/support/catch.h"

namespace {

using bench::RequestRecord;
using bench::Seconds;

/// Due at `due`, first token after `ttft`, then one every `gap`, all in seconds.
RequestRecord make_record(double due, double ttft, double gap, std::uint32_t tokens) {
    RequestRecord record;
    record.due = Seconds(due);
    record.sent = Seconds(due);
    for (std::uint32_t i = 0; i < tokens; ++i) {
        record.token_times.push_back(Seconds(due + ttft + gap * i));
    }
    record.end = record.token_times.back();
    record.prompt_tokens = 10;
    record.output_tokens = tokens;
    return record;
}

RequestRecord make_failure(double due, std::string kind) {
    RequestRecord record;
    record.due = record.sent = record.end = Seconds(due);
    record.error_kind = std::move(kind);
    return record;
}

}  // namespace

TEST_CASE("TTFT counts from when the request was due, not from when it was sent", "[bench]") {
    RequestRecord record = make_record(1, 0.5, 0.1, 3);
    record.sent = Seconds(1.4);
    const bench::Report report = bench::make_report(std::vector{record}, {});
    REQUIRE(report.ttft_ms.mean == Approx(500));
    REQUIRE(report.lag_ms.maximum == Approx(400));
    REQUIRE(report.tpot_ms.mean == Approx(100));
    REQUIRE(report.itl_ms.count == 2u);
    REQUIRE(report.end_to_end_ms.mean == Approx(700));
}

TEST_CASE("TPOT divides by the server's count of tokens when a chunk holds several", "[bench]") {
    RequestRecord record = make_record(0, 0.1, 0.2, 3);  // three chunks over 0.4 s
    record.output_tokens = 5;
    REQUIRE(record.tpot()->count() == Approx(0.1));
}

TEST_CASE("attainment is the share of all requests that meet both targets, failures do not", "[bench]") {
    const std::vector<RequestRecord> records{make_record(0, 0.1, 0.01, 11), make_record(1, 0.3, 0.01, 11),
                                             make_record(2, 0.1, 0.05, 11), make_failure(3, "http_429"),
                                             make_record(4, 0.1, 0.01, 1)};
    const bench::SloTargets targets{.ttft = Seconds(0.2), .tpot = Seconds(0.02)};
    const bench::Report report = bench::make_report(records, targets);
    REQUIRE(report.attainment == Approx(0.4));  // the first and the last: one token has no TPOT to miss
    REQUIRE(report.duration_s == Approx(4.1));
    REQUIRE(report.goodput_per_s == Approx(2 / 4.1));
    REQUIRE(report.offered_per_s == Approx(1));
    REQUIRE(report.requests_ok == 4u);
    REQUIRE(report.errors.at("http_429") == 1u);
    REQUIRE(report.ttft_ms.count == 4u);
    const std::string text = bench::report_text(report, targets);
    REQUIRE(text.find("met by 40.0 %") != std::string::npos);
    REQUIRE(text.find("failed: http_429 1") != std::string::npos);
}

TEST_CASE("targets that are not set hold for every answer", "[bench]") {
    REQUIRE(bench::meets({}, make_record(0, 100, 100, 2)));
    REQUIRE_FALSE(bench::meets({}, make_failure(0, "timeout")));
}

TEST_CASE("a run without requests or without answers has a report", "[bench]") {
    REQUIRE(bench::make_report({}, {}).requests == 0u);
    const bench::Report report =
        bench::make_report(std::vector{make_failure(0, "connect"), make_failure(0, "connect")}, {});
    REQUIRE(report.attainment == 0);
    REQUIRE(report.duration_s == 0);
    REQUIRE(report.completed_per_s == 0);
    REQUIRE_FALSE(bench::report_text(report, {}).empty());
}

TEST_CASE("of equal times an end comes before a begin, and who ends as it is sent was never in flight", "[bench]") {
    const auto most = [](const std::vector<RequestRecord>& records) {
        return bench::make_report(records, {}).in_flight_max;
    };
    CHECK(most({make_record(0, 0.5, 0.5, 2), make_record(1, 0.5, 0.5, 2)}) == 1u);  // [0, 1], [1, 2]
    CHECK(most({make_record(0, 0.5, 0.6, 2), make_record(1, 0.5, 0.5, 2)}) == 2u);
    CHECK(most({make_failure(3, "http_429")}) == 0u);
    CHECK(most({make_failure(3, "http_429"), make_record(2, 1, 1, 2), make_failure(3, "http_429")}) == 1u);
}
