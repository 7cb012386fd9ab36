#include "base/json_place.h"

#include <string>

#include "tests/support/catch.h"

TEST_CASE("a place in a JSON text is a line and a column", "[base]") {
    const std::string text = "{\n  \"a\": 1,\n  \"b\": 2\n}";
    CHECK(base::json_place(text, 0) == "line 1, column 1");
    CHECK(base::json_place(text, text.find("\"b\"")) == "line 3, column 3");
    CHECK(base::json_place(text, 10'000) == "line 4, column 2");
    CHECK(base::json_place("", 0) == "line 1, column 1");
}

TEST_CASE("a field is found by the objects that it is in, the last one of several", "[base]") {
    const std::string text =
        R"({"x": {"factor": 1}, "rope": {"list": [{"factor": 2}], "factor": 3, "said": "\"factor\": 4"}, "factor": 5,
            "of": [[{"x": 1}]], "factor": 6})";
    const auto at = [&](const std::string& path) { return base::find_json_field(text, path); };
    CHECK(at("x.factor") == text.find("\"factor\": 1"));
    CHECK(at("rope.factor") == text.find("\"factor\": 3"));
    CHECK(at("factor") == text.find("\"factor\": 6"));
    CHECK(at("rope") == text.find("\"rope\""));
    CHECK_FALSE(at("rope.list.factor"));
    CHECK_FALSE(at("of.x"));
    CHECK_FALSE(at("said.factor"));
    CHECK_FALSE(at(""));
}

TEST_CASE("a key that stands twice in an object is found, in others it does not count", "[base]") {
    const std::string text = R"({"a": 1, "map": {"a": 1, "b": {"a": 2, "a": 3}, "c": "a", "b": 4}})";
    CHECK_FALSE(base::find_json_duplicate(text));
    const auto twice = base::find_json_duplicate(text, "map");
    REQUIRE(twice);
    CHECK(twice->key == "b");
    CHECK(twice->offset == text.rfind("\"b\""));
    CHECK(base::find_json_duplicate(text, "map.b")->key == "a");
    CHECK_FALSE(base::find_json_duplicate("[1, 2]"));
}

TEST_CASE("what a parser has refused is told with field and place, NaN and Infinity by name", "[base]") {
    for (const std::string word : {"NaN", "Infinity", "-Infinity"}) {
        const std::string text = "{\n \"rms_norm_eps\": " + word + "}";
        for (std::size_t inside = 0; inside <= 1; ++inside) {  // a parser may have read a part of the word
            const std::string said = base::describe_json_error(text, text.find(word) + inside);
            CAPTURE(said);
            CHECK(said.find("line 2, column 18") != std::string::npos);
            CHECK(said.find("\"rms_norm_eps\"") != std::string::npos);
            CHECK(said.find(": " + word + " is no JSON number") != std::string::npos);
        }
    }
    CHECK(base::describe_json_error("{\"a\": 1,", 8) == "line 1, column 9, in or behind the field \"a\"");
    CHECK(base::describe_json_error("", 5) == "line 1, column 1");
    CHECK(base::describe_json_error("\"\\", 2) == "line 1, column 3");
}
