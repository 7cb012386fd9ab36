#include <string>

#include "caching/semantic/text_profile.h"
#include "caching/semantic/words.h"
#include "tests/support/catch.h"

using caching::first_conflict;
using caching::Gate;
using caching::profile_of;

namespace {

Gate between(const std::string& a, const std::string& b) {
    const Gate gate = first_conflict(profile_of(a), profile_of(b));
    CHECK(gate == first_conflict(profile_of(b), profile_of(a)));  // symmetric
    return gate;
}

}  // namespace

TEST_CASE("one changed number keeps an answer back (reported for semantic-router #36 and #160)", "[caching]") {
    CHECK(between("What is 2 percent of 640?", "What is 7 percent of 640?") == Gate::numbers);
    CHECK(between("I need a table for two", "I need a table for three") == Gate::numbers);
    CHECK(between("Who won the election in 1960?", "Who won the election in 1964?") == Gate::numbers);
    CHECK(between("Who won the election in 1960?", "Please: who won the election in 1960?") == Gate::none);
}

TEST_CASE("a question turned round is another question (reported for GPTCache #694)", "[caching]") {
    CHECK(between("How do I convert Fahrenheit to Kelvin?", "How do I convert Kelvin to Fahrenheit?") == Gate::order);
    CHECK(between("Is Canada bigger than Saturn?", "Is Saturn bigger than Canada?") == Gate::order);
    CHECK(between("flight time from Tokyo to Sydney", "flight time from Sydney to Tokyo") == Gate::order);
    CHECK(between("flight time from Tokyo to Sydney", "the flight time from Tokyo to Sydney please") == Gate::none);
}

TEST_CASE("opposites and negations keep an answer back", "[caching]") {
    CHECK(between("sort the list in ascending order", "sort the list in descending order") == Gate::poles);
    CHECK(between("how do I enable the firewall", "how do I disable the firewall") == Gate::poles);
    CHECK(between("why does it work", "why does it not work") == Gate::negation);
    CHECK(between("coffee with sugar", "coffee without sugar") == Gate::poles);
}

TEST_CASE("names, times and identifiers must be the same", "[caching]") {
    CHECK(between("who is the mayor of Berlin", "who is the mayor of Paris") == Gate::names);
    CHECK(between("what is the weather today", "what is the weather tomorrow") == Gate::times);
    CHECK(between("remove all files in /tmp/a", "remove all files in /tmp/b") == Gate::identifiers);
    CHECK(between("list *.txt files", "list *.mp3 files") == Gate::identifiers);
    CHECK(between("who is the mayor of Berlin", "Who is the mayor of berlin?") == Gate::none);
}

TEST_CASE("unmatched_share counts the content words that only one text has", "[caching]") {
    const auto share = [](const char* a, const char* b) {
        return caching::unmatched_share(profile_of(a), profile_of(b));
    };
    CHECK(share("how do I sort files", "please sort the files") == 0.0);
    CHECK(share("sort files", "delete folders") == 1.0);
    CHECK(share("", "") == 0.0);
}

TEST_CASE("blanks are formatting except where lines are", "[caching]") {
    CHECK(caching::canonical_text("  a  b\t c ") == "a b c");
    CHECK(caching::canonical_text("if x:\n    y\n") == "if x:\n    y");
    CHECK(caching::canonical_text(" \t ").empty());
    CHECK(caching::canonical_turn("Go to Washington D.C.? Yes!") == "Go to Washington D.C Yes");
    CHECK(caching::canonical_turn("ls . and 3.5") == "ls . and 3.5");
}

TEST_CASE("any bytes have a profile", "[caching]") {
    std::string bytes;
    for (int i = 0; i < 2000; ++i) {
        bytes += static_cast<char>((i * 37 + i / 7) % 256);
    }
    CHECK(between(bytes, bytes) == Gate::none);
    CHECK(caching::unmatched_share(profile_of(bytes), profile_of(bytes)) == 0.0);
}
