#include "base/trace.h"

#include <set>

#include "tests/support/catch.h"

TEST_CASE("a traceparent is read and written as W3C has it", "[base]") {
    const std::string text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const auto context = base::parse_traceparent(text);
    REQUIRE(context);
    REQUIRE(context->is_sampled);
    REQUIRE(context->span == 0x00f067aa0ba902b7u);
    REQUIRE(base::trace_id_text(*context) == "4bf92f3577b34da6a3ce929d0e0e4736");
    REQUIRE(base::to_traceparent(*context) == text);
    REQUIRE_FALSE(base::parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00")->is_sampled);
    // A later version may have more behind it.
    REQUIRE(base::parse_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-else"));
    REQUIRE(base::parse_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
}

TEST_CASE("what is no traceparent is none", "[base]") {
    for (const char* text : {"", "00", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
                             "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                             "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                             "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                             "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
                             "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
                             "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
                             "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01"}) {
        CAPTURE(text);
        REQUIRE_FALSE(base::parse_traceparent(text));
    }
}

TEST_CASE("new traces are of their own, and sampled as often as was asked", "[base]") {
    std::set<std::string> ids;
    for (int count = 0; count < 100; ++count) {
        const auto all = base::new_trace(1);
        REQUIRE(all.is_sampled);
        REQUIRE(all.span != 0);
        REQUIRE_FALSE(base::new_trace(0).is_sampled);
        ids.insert(base::trace_id_text(all));
        REQUIRE(base::parse_traceparent(base::to_traceparent(all)) == all);
    }
    REQUIRE(ids.size() == 100);
}
