#include "base/config.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace {

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

constexpr const char* kYaml =
    "decode:\n"
    "  kv_pool_bytes: 2147483648\n"
    "  share: 0.5\n"
    "  preempt: true\n"
    "model: ./m\n"
    "log: debug\n"
    "peers: [a, b]\n";

}  // namespace

TEST_CASE("settings are read by section and key, with defaults for what is absent", "[base]") {
    base::Config config;
    REQUIRE(config.add_text(kYaml, "c.yaml").has_value());
    REQUIRE(config.integer("decode.kv_pool_bytes", 1) == 2147483648);
    REQUIRE(config.number("decode.share", 0.1, 0, 1) == 0.5);
    REQUIRE(config.boolean("decode.preempt", false));
    REQUIRE(config.string("model", "") == "./m");
    REQUIRE(config.choice("log", "info", {"debug", "info"}) == "debug");
    REQUIRE(config.strings("peers", {}) == std::vector<std::string>{"a", "b"});
    REQUIRE(config.integer("decode.batch_sequences_max", 32) == 32);
    REQUIRE(config.string("name", "x") == "x");
    REQUIRE(config.strings("none", {"y"}) == std::vector<std::string>{"y"});
    REQUIRE(config.finish().has_value());
}

TEST_CASE("later sources win: file, then --set", "[base]") {
    base::Config config;
    REQUIRE(config.add_text("a: 1\nb: 1\nc: 1\n", "one.yaml").has_value());
    REQUIRE(config.add_text("b: 2\nc: 2\n", "two.yaml").has_value());
    REQUIRE(config.set("c=3").has_value());
    REQUIRE(config.set("section.key=4").has_value());
    REQUIRE(config.integer("a", 0) == 1);
    REQUIRE(config.integer("b", 0) == 2);
    REQUIRE(config.integer("c", 0) == 3);
    REQUIRE(config.integer("section.key", 0) == 4);
    REQUIRE(config.finish().has_value());
}

TEST_CASE("finish names every unknown key and every bad value with file and line", "[base]") {
    base::Config config;
    REQUIRE(config.add_text("good: 1\nbad: text\nsection:\n  typo: 1\nlow: -1\nwhat: maybe\npick: c\n", "c.yaml"));
    REQUIRE(config.set("extra.key=1"));
    REQUIRE(config.integer("good", 0) == 1);
    REQUIRE(config.integer("bad", 7) == 7);
    REQUIRE(config.integer("low", 5, 0, 10) == 5);
    REQUIRE_FALSE(config.boolean("what", false));
    REQUIRE(config.choice("pick", "a", {"a", "b"}) == "a");
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    REQUIRE(finished.error().code == base::ErrorCode::invalid_argument);
    const std::string& message = finished.error().message;
    CAPTURE(message);
    REQUIRE(contains(message, "c.yaml:2: bad must be an integer"));
    REQUIRE(contains(message, "got 'text'"));
    REQUIRE(contains(message, "c.yaml:4: unknown key section.typo"));
    REQUIRE(contains(message, "c.yaml:5: low must be an integer from 0 to 10, got '-1'"));
    REQUIRE(contains(message, "c.yaml:6: what must be true or false"));
    REQUIRE(contains(message, "c.yaml:7: pick must be one of a, b"));
    REQUIRE(contains(message, "--set extra.key: unknown key extra.key"));
    REQUIRE_FALSE(contains(message, "good"));
}

TEST_CASE("a value of the wrong kind is a bad value, not a default", "[base]") {
    base::Config config;
    REQUIRE(config.add_text("a: [1]\nb:\n  c: 1\nd: 1.5\ne: 99999999999999999999\nf: .nan\n", "c.yaml"));
    config.string("a", "");
    config.integer("d", 0);
    config.integer("e", 0);
    config.number("f", 0, 0, 1);
    config.integer("b.c", 0);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    for (const char* line : {"c.yaml:1:", "c.yaml:4:", "c.yaml:5:", "c.yaml:6:"}) {
        CAPTURE(line, finished.error().message);
        REQUIRE(contains(finished.error().message, line));
    }
}

TEST_CASE("a section where a value is expected is an unknown key", "[base]") {
    base::Config config;
    REQUIRE(config.add_text("port:\n  http: 80\n", "c.yaml"));
    REQUIRE(config.integer("port", 8000) == 8000);
    const auto finished = config.finish();
    REQUIRE_FALSE(finished.has_value());
    REQUIRE(contains(finished.error().message, "c.yaml:2: unknown key port.http"));
}

TEST_CASE("broken YAML is an error with its line", "[base]") {
    base::Config config;
    const auto added = config.add_text("a: 1\nb: [1,\n", "broken.yaml");
    REQUIRE_FALSE(added.has_value());
    REQUIRE(added.error().code == base::ErrorCode::invalid_argument);
    CAPTURE(added.error().message);
    REQUIRE(contains(added.error().message, "broken.yaml:"));
    REQUIRE_FALSE(config.add_text("just text", "text.yaml").has_value());
    REQUIRE_FALSE(config.add_text("- a\n- b\n", "list.yaml").has_value());
    REQUIRE(config.add_text("", "empty.yaml").has_value());
    REQUIRE(config.add_text("# nothing\n", "comment.yaml").has_value());
}

TEST_CASE("a setting needs a key and a value", "[base]") {
    base::Config config;
    for (const char* bad : {"", "key", "=1", "a=[1"}) {
        CAPTURE(bad);
        const auto refused = config.set(bad);
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
    }
    REQUIRE(config.set("empty=").has_value());
    REQUIRE(config.string("empty", "x").empty());
    REQUIRE(config.set("text=a=b").has_value());
    REQUIRE(config.string("text", "") == "a=b");
    REQUIRE(config.finish().has_value());
}

TEST_CASE("a config file is read from disk and missing ones are named", "[base]") {
    const auto path = std::filesystem::temp_directory_path() / ("config_test." + std::to_string(getpid()) + ".yaml");
    std::ofstream(path) << "a: 5\n";
    base::Config config;
    const auto added = config.add_file(path);
    std::filesystem::remove(path);
    REQUIRE(added.has_value());
    REQUIRE(config.integer("a", 0) == 5);
    const auto missing = config.add_file(path);
    REQUIRE_FALSE(missing.has_value());
    REQUIRE(missing.error().code == base::ErrorCode::not_found);
    REQUIRE(contains(missing.error().message, path.string()));
}

TEST_CASE("the merged settings list what is in effect, sorted", "[base]") {
    base::Config config;
    REQUIRE(config.add_text("b: 2\n", "c.yaml"));
    config.integer("b", 0);
    config.string("a", "x");
    config.boolean("c", true);
    REQUIRE(config.merged() == "a: x\nb: 2\nc: true\n");
}

TEST_CASE("the merged settings do not show what is sent to a receiver of traces, which may be a key", "[base]") {
    base::Config config;
    config.strings("tracing.headers", {});
    REQUIRE(config.merged().find("not shown") == std::string::npos);
    base::Config with;
    REQUIRE(with.add_text("tracing:\n  headers: [x-key=secret]\n", "c.yaml"));
    REQUIRE(with.strings("tracing.headers", {}) == std::vector<std::string>{"x-key=secret"});
    REQUIRE(with.merged() == "tracing.headers: (not shown)\n");
}

TEST_CASE("the merged settings, which are printed and logged, do not show the cluster's key", "[base]") {
    base::Config config;
    REQUIRE(config.merged().empty());
    config.string("cluster.key", "");
    REQUIRE(config.merged().find("not shown") == std::string::npos);
    base::Config with;
    REQUIRE(with.add_text("cluster:\n  key: 0123456789abcdef0123456789abcdef\n", "c.yaml"));
    REQUIRE(with.string("cluster.key", "") == "0123456789abcdef0123456789abcdef");
    REQUIRE(with.merged() == "cluster.key: (not shown)\n");
}

TEST_CASE("aliases that hold themselves, or each other many times, are refused", "[base]") {
    const std::string repeated =
        "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
        "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]\n";
    for (const std::string& text : {std::string("a: &x\n  share: *x\n"), std::string("a: &x [*x]\n"), repeated}) {
        CAPTURE(text);
        base::Config config;
        const auto added = config.add_text(text, "hostile.yaml");
        REQUIRE_FALSE(added);
        CHECK(added.error().message.find("hostile.yaml is nested deeper than") == 0);
    }
    base::Config config;
    CHECK_FALSE(config.set("a=&x [*x]"));
    CHECK_FALSE(config.add_text("? [a, b]\n: 1\n", "hostile.yaml"));
    CHECK_FALSE(config.add_file("/dev/zero"));
    CHECK(config.add_text("a: &x {b: 1}\nc: *x\n", "good.yaml"));
}
