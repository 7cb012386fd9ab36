#include "base/check.h"

#include <string>

namespace {

void require_below(int value, int limit) {
    CHECK(value < limit, "value " << value << " of " << limit);
}
void require_plain(bool value) {
    CHECK(value);
}

}  // namespace

#include "tests/support/last_words.h"

using test_support::last_words;

TEST_CASE("a CHECK that fails prints condition, place and values and stops the process", "[base]") {
    const std::string words = last_words([] { require_below(7, 5); });
    CAPTURE(words);
    REQUIRE(words.find("CHECK failed: value < limit at ") == 0);
    REQUIRE(words.find("check_test.cpp:") != std::string::npos);
    REQUIRE(words.find(": value 7 of 5\n") != std::string::npos);
    REQUIRE(last_words([] { require_plain(false); }).find("CHECK failed: value at ") == 0);
}

TEST_CASE("a CHECK that holds does nothing", "[base]") {
    require_below(4, 5);
    require_plain(true);
    REQUIRE(last_words([] { require_plain(true); }).empty());
}
