#include "base/log.h"

#include "tests/support/catch.h"

TEST_CASE("what a client sent cannot forge log lines", "[base]") {
    REQUIRE(base::log_safe("plain text") == "plain text");
    REQUIRE(base::log_safe("a\nb\tc\x7f") == "a\\x0ab\\x09c\\x7f");
    REQUIRE(base::log_safe("\xff\x1b[31m") == "\\xff\\x1b[31m");
    REQUIRE(base::log_safe("a\\x0a") == "a\\x5cx0a");
    REQUIRE(base::log_safe(std::string_view("\0x", 2)) == "\\x00x");
}

TEST_CASE("what a client sent is cut", "[base]") {
    REQUIRE(base::log_safe("abcdef", 3) == "abc...");
    REQUIRE(base::log_safe("abc", 3) == "abc");
}
