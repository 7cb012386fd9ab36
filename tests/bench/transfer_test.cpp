#include "bench/transfer.h"

#include "tests/support/catch.h"

TEST_CASE("a transport is measured: what it carries, a message and a block there and back", "[bench]") {
    bench::TransferBenchOptions options;
    options.transports = {"tls"};
    options.message_bytes = 64 * 1024;
    options.block_bytes = 100'000;  // longer than a message
    options.seconds = 0.05;
    const auto report = bench::measure_transfer(options);
    CAPTURE((report ? "" : report.error().message));
    REQUIRE(report);
    REQUIRE(report->figures.size() == 1);
    const bench::TransferFigure& figure = report->figures.front();
    CHECK(figure.transport == "tls");
    CHECK(figure.gigabytes_per_second > 0);
    CHECK(figure.round_trip_us > 0);
    CHECK(figure.block_us > 0);
    CHECK(report->aes_128_gcm_gigabytes_per_second > 0);
}

TEST_CASE("a transport that is none is refused with those that there are", "[bench]") {
    bench::TransferBenchOptions options;
    options.transports = {"pigeon"};
    const auto report = bench::measure_transfer(options);
    REQUIRE(!report);
    CHECK(report.error().code == base::ErrorCode::invalid_argument);
    CHECK(report.error().message.find("ucx, ucx-tcp, tls") != std::string::npos);
}
