#include "gateway/http/gate.h"

#include <random>
#include <string>

#include "gateway/http/body_reader.h"

#include "tests/support/catch.h"

namespace {

using gateway::check_head;
using gateway::HttpLimits;

std::string head_of(const std::string& request_line, const std::string& fields = "Host: h\r\n") {
    return request_line + "\r\n" + fields + "\r\n";
}

unsigned status_of(const std::string& head, const HttpLimits& limits = {}) {
    const auto end = gateway::find_head_end(head, limits);
    if (!end) { return end.error().status; }
    REQUIRE(*end);
    const auto checked = check_head(std::string_view(head).substr(0, **end), limits);
    return checked ? 200 : checked.error().status;
}

struct Case {
    const char* what;
    std::string head;
    unsigned status;
};

}  // namespace

TEST_CASE("a head that means one thing to everybody passes", "[gateway][http]") {
    const std::string text =
        "POST /v1/models/a%2Fb?x=1&y HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Length: 12\r\nX-Empty:\r\nX-Two:  a b "
        "\t\r\n"
        "Expect: 100-Continue\r\nConnection: Close, foo\r\n\r\n";
    const auto head = check_head(text, {});
    REQUIRE(head);
    REQUIRE(head->method == "POST");
    REQUIRE(head->path == "/v1/models/a/b");
    REQUIRE(head->query == "x=1&y");
    REQUIRE(head->content_length == 12u);
    REQUIRE(*head->field("x-two") == "a b");
    REQUIRE(head->field("x-empty")->empty());
    REQUIRE(head->field("x-none") == nullptr);
    REQUIRE(head->expects_continue);
    REQUIRE_FALSE(head->keep_alive);
    REQUIRE_FALSE(head->chunked);
}

TEST_CASE("an absolute target counts by its path when its host is the Host header's", "[gateway][http]") {
    REQUIRE(check_head(head_of("GET http://H:80/live HTTP/1.1", "Host: h:80\r\n"), {})->path == "/live");
    REQUIRE(check_head(head_of("GET http://h HTTP/1.1"), {})->path == "/");
    REQUIRE(status_of(head_of("GET http://evil/live HTTP/1.1")) == 400u);
    REQUIRE(status_of(head_of("GET http://u@h/live HTTP/1.1")) == 400u);
    REQUIRE(check_head(head_of("OPTIONS * HTTP/1.1"), {})->path == "*");
}

TEST_CASE("connections stay open by version and by wish", "[gateway][http]") {
    REQUIRE(check_head(head_of("GET / HTTP/1.1"), {})->keep_alive);
    REQUIRE_FALSE(check_head(head_of("GET / HTTP/1.0"), {})->keep_alive);
    REQUIRE(check_head(head_of("GET / HTTP/1.0", "Connection: keep-alive\r\n"), {})->keep_alive);
    REQUIRE_FALSE(
        check_head(head_of("GET / HTTP/1.1", "Host: h\r\nConnection: keep-alive, close\r\n"), {})->keep_alive);
}

TEST_CASE("what other parsers could read differently is refused", "[gateway][http]") {
    const std::string post = "POST / HTTP/1.1";
    const std::vector<Case> cases = {
        {"two different lengths", head_of(post, "Host: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n"), 400},
        {"two equal lengths", head_of(post, "Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n"), 400},
        {"a list of lengths", head_of(post, "Host: h\r\nContent-Length: 5, 5\r\n"), 400},
        {"a signed length", head_of(post, "Host: h\r\nContent-Length: +5\r\n"), 400},
        {"a negative length", head_of(post, "Host: h\r\nContent-Length: -5\r\n"), 400},
        {"a hexadecimal length", head_of(post, "Host: h\r\nContent-Length: 0x5\r\n"), 400},
        {"an empty length", head_of(post, "Host: h\r\nContent-Length:\r\n"), 400},
        {"a length beyond 64 bits", head_of(post, "Host: h\r\nContent-Length: 99999999999999999999\r\n"), 400},
        {"a length and chunks", head_of(post, "Host: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400},
        {"another coding", head_of(post, "Host: h\r\nTransfer-Encoding: gzip\r\n"), 400},
        {"nearly chunked", head_of(post, "Host: h\r\nTransfer-Encoding: xchunked\r\n"), 400},
        {"chunked and more", head_of(post, "Host: h\r\nTransfer-Encoding: chunked, identity\r\n"), 400},
        {"chunked twice", head_of(post, "Host: h\r\nTransfer-Encoding: chunked, chunked\r\n"), 400},
        {"two codings", head_of(post, "Host: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400},
        {"chunked in 1.0", head_of("POST / HTTP/1.0", "Host: h\r\nTransfer-Encoding: chunked\r\n"), 400},
        {"a folded line", head_of(post, "Host: h\r\nX: a\r\n b\r\n"), 400},
        {"a folded first line", head_of(post, " X: a\r\nHost: h\r\n"), 400},
        {"space before the colon", head_of(post, "Host: h\r\nX : a\r\n"), 400},
        {"no colon", head_of(post, "Host: h\r\nX\r\n"), 400},
        {"an empty name", head_of(post, "Host: h\r\n: a\r\n"), 400},
        {"a name with a quote", head_of(post, "Host: h\r\nX\"Y: a\r\n"), 400},
        {"a bell in a value", head_of(post, "Host: h\r\nX: a\x07\r\n"), 400},
        {"a NUL in a value", head_of(post, std::string("Host: h\r\nX: a\0b\r\n", 16)), 400},
        {"a bare line feed", "GET / HTTP/1.1\nHost: h\r\n\r\n", 400},
        {"only bare line feeds", "GET / HTTP/1.1\nHost: h\n\n", 400},
        {"a bare carriage return", "GET / HTTP/1.1\rHost: h\r\n\r\n", 400},
        {"no host", head_of("GET / HTTP/1.1", ""), 400},
        {"two hosts", head_of("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n"), 400},
        {"an empty host", head_of("GET / HTTP/1.1", "Host:\r\n"), 400},
        {"a host with a path", head_of("GET / HTTP/1.1", "Host: a/b\r\n"), 400},
        {"a host with a query", head_of("GET / HTTP/1.1", "Host: a?b\r\n"), 400},
        {"a host with a user", head_of("GET / HTTP/1.1", "Host: u@a\r\n"), 400},
        {"a host list", head_of("GET / HTTP/1.1", "Host: a, b\r\n"), 400},
        {"a host with a bad port", head_of("GET / HTTP/1.1", "Host: a:99999\r\n"), 400},
        {"a host that is not ASCII", head_of("GET / HTTP/1.1", "Host: \xc3\xa9\r\n"), 400},
        {"CONNECT", head_of("CONNECT h:443 HTTP/1.1"), 405},
        {"TRACE", head_of("TRACE / HTTP/1.1"), 405},
        {"a relative target", head_of("GET live HTTP/1.1"), 400},
        {"a fragment", head_of("GET /a#b HTTP/1.1"), 400},
        {"a backslash", head_of("GET /a\\b HTTP/1.1"), 400},
        {"raw UTF-8", head_of("GET /\xc3\xa9 HTTP/1.1"), 400},
        {"a broken escape", head_of("GET /%4 HTTP/1.1"), 400},
        {"an escaped NUL", head_of("GET /%00 HTTP/1.1"), 400},
        {"an escaped line feed", head_of("GET /a%0ab HTTP/1.1"), 400},
        {"two spaces", head_of("GET  / HTTP/1.1"), 400},
        {"a space in the target", head_of("GET /a b HTTP/1.1"), 400},
        {"a leading space", head_of(" GET / HTTP/1.1"), 400},
        {"a tab", head_of("GET\t/ HTTP/1.1"), 400},
        {"a version of 0.9", head_of("GET / HTTP/0.9"), 505},
        {"a version of 2.0", head_of("GET / HTTP/2.0"), 505},
        {"a small version", head_of("GET / http/1.1"), 400},
        {"a long version", head_of("GET / HTTP/1.10"), 400},
        {"no version", "GET /\r\nHost: h\r\n\r\n", 400},
        {"a method with a bracket", head_of("GE[T / HTTP/1.1"), 400},
        {"another expectation", head_of(post, "Host: h\r\nExpect: 200-ok\r\n"), 417},
        {"a body too large", head_of(post, "Host: h\r\nContent-Length: 999999999\r\n"), 413},
    };
    for (const Case& one : cases) {
        CAPTURE(one.what);
        CHECK(status_of(one.head) == one.status);
    }
}

TEST_CASE("a head that is too long is refused before its end has come", "[gateway][http]") {
    const HttpLimits limits{.header_bytes_max = 2048, .target_bytes_max = 256, .header_fields_max = 4};
    REQUIRE(gateway::find_head_end("GET /" + std::string(400, 'a'), limits).error().status == 414u);
    REQUIRE(gateway::find_head_end("GET / HTTP/1.1\r\nX: " + std::string(3000, 'a'), limits).error().status == 431u);
    REQUIRE(status_of(head_of("GET / HTTP/1.1", "Host: h\r\nA: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\n"), limits) == 431u);
    REQUIRE(status_of(head_of("GET /" + std::string(300, 'a') + " HTTP/1.1"), limits) == 414u);
}

TEST_CASE("the end of the head is found however it arrives", "[gateway][http]") {
    const std::string text = head_of("GET / HTTP/1.1") + "rest";
    for (std::size_t length = 0; length < text.size() - 4; ++length) {
        CAPTURE(length);
        const auto end = gateway::find_head_end(std::string_view(text).substr(0, length), {});
        REQUIRE(end);
        REQUIRE_FALSE(*end);
    }
    REQUIRE(**gateway::find_head_end(text, {}) == text.size() - 4);
}

namespace {

const std::string kChunkedHead = head_of("POST / HTTP/1.1", "Host: h\r\nTransfer-Encoding: chunked\r\n");

/// Feeds `bytes` in the given pieces. The body and how many bytes belong to it, or the status of the refusal.
struct Fed {
    std::string body;
    std::size_t taken = 0;
    bool done = false;
    unsigned refused = 0;
};

Fed feed(const std::string& head, const std::string& bytes, std::size_t piece, HttpLimits limits = {}) {
    const auto checked = check_head(head, limits);
    REQUIRE(checked);
    gateway::BodyReader reader(head, *checked, limits);
    Fed fed;
    std::string input;
    for (std::size_t at = 0; at < bytes.size() && !reader.done(); at += piece) {
        input += bytes.substr(at, piece);
        const auto taken = reader.feed(input);
        if (!taken) {
            fed.refused = taken.error().status;
            return fed;
        }
        input.erase(0, *taken);
        fed.taken += *taken;
    }
    fed.done = reader.done();
    if (fed.done) { fed.body = reader.take(); }
    return fed;
}

}  // namespace

TEST_CASE("a body is read by its length at every split, and not a byte more", "[gateway][http]") {
    const std::string head = head_of("POST / HTTP/1.1", "Host: h\r\nContent-Length: 5\r\n");
    for (std::size_t piece = 1; piece < 12; ++piece) {
        const Fed fed = feed(head, "helloGET /next", piece);
        REQUIRE(fed.done);
        REQUIRE(fed.body == "hello");
        REQUIRE(fed.taken == 5u);
    }
    REQUIRE_FALSE(feed(head, "hell", 2).done);
}

TEST_CASE("a chunked body is read at every split", "[gateway][http]") {
    const std::string chunks = "5\r\nhello\r\nA;x=\"y\"\r\n, 10 bytes\r\n0\r\nTrailer: ignored\r\n\r\n";
    for (std::size_t piece = 1; piece < chunks.size() + 3; ++piece) {
        CAPTURE(piece);
        const Fed fed = feed(kChunkedHead, chunks + "GET", piece);
        REQUIRE(fed.refused == 0u);
        REQUIRE(fed.done);
        REQUIRE(fed.body == "hello, 10 bytes");
        REQUIRE(fed.taken == chunks.size());
    }
}

TEST_CASE("malformed chunks are refused at every split", "[gateway][http]") {
    const std::vector<std::pair<const char*, std::string>> cases = {
        {"bare line feed after the size", "5\nhello\r\n0\r\n\r\n"},
        {"bare line feed in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"},
        {"hexadecimal prefix", "0x5\r\nhello\r\n0\r\n\r\n"},
        {"sign", "+5\r\nhello\r\n0\r\n\r\n"},
        {"negative", "-5\r\nhello\r\n0\r\n\r\n"},
        {"underscore", "1_0\r\nhello\r\n0\r\n\r\n"},
        {"no size", "\r\nhello\r\n0\r\n\r\n"},
        {"size beyond 64 bits", "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"},
        {"data longer than its size", "4\r\nhello\r\n0\r\n\r\n"},
        {"data shorter than its size", "6\r\nhello\r\n0\r\n\r\n"},
        {"NUL in the size line", std::string("5;\0\r\nhello\r\n0\r\n\r\n", 18)},
        {"bare line feed after data", "5\r\nhello\n0\r\n\r\n"},
        {"trailer with a bare line feed", "5\r\nhello\r\n0\r\nX: y\n\r\n\r\n"},
        {"endless extension", "5;" + std::string(100000, 'a')},
    };
    for (const auto& [what, bytes] : cases) {
        for (const std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{7}, bytes.size()}) {
            if (bytes.size() > 1000 && piece < 7) { continue; }
            CAPTURE(what, piece);
            CHECK(feed(kChunkedHead, bytes, piece).refused == 400u);
        }
    }
}

TEST_CASE("a chunked body beyond the limit is refused", "[gateway][http]") {
    HttpLimits limits;
    limits.body_bytes_max = 8;
    REQUIRE(feed(kChunkedHead, "8\r\n12345678\r\n0\r\n\r\n", 4, limits).done);
    REQUIRE(feed(kChunkedHead, "9\r\n", 4, limits).refused == 413u);
    REQUIRE(feed(kChunkedHead, "8\r\n12345678\r\n1\r\n", 4, limits).refused == 413u);
}

TEST_CASE("no bytes make the gate do anything but pass or refuse", "[gateway][http][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::string text = kChunkedHead + "5\r\nhello\r\n0\r\n\r\n";
    for (int change = 0; change < 4; ++change) {
        const std::size_t at = random() % text.size();
        switch (random() % 3) {
            case 0:
                text[at] = static_cast<char>(random());
                break;
            case 1:
                text.erase(at, 1 + random() % 3);
                break;
            default:
                text.insert(at, 1, "\r\n :;0\t,"[random() % 9]);
        }
    }
    const auto end = gateway::find_head_end(text, {});
    if (!end || !*end) { return; }
    const auto head = check_head(std::string_view(text).substr(0, **end), {});
    if (!head) { return; }
    gateway::BodyReader reader(std::string_view(text).substr(0, **end), *head, {});
    const auto taken = reader.feed(std::string_view(text).substr(**end));
    if (taken) { REQUIRE(*taken <= text.size() - **end); }
}
