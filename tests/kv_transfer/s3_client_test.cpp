// The client of a store: what it reads, what it refuses, what it tries again, and that it ends.
#include "kv_transfer/tier/s3_client.h"

#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"

#include "tests/support/catch.h"
#include "tests/support/s3_server.h"

using base::ErrorCode;
using base::Result;
using kv_transfer::parse_s3_credentials;
using kv_transfer::parse_s3_list;
using kv_transfer::s3_error_code;
using kv_transfer::S3Client;
using kv_transfer::S3Credentials;
using test_support::S3Server;
using Fault = S3Server::Fault;
using Verb = S3Client::Verb;

namespace {

const S3Credentials kCredentials{"AKEXAMPLE", "hidden/secret+word"};
constexpr std::size_t kObjectBytes = 100'000;

S3Client::Options options_for(const std::string& endpoint) {
    S3Client::Options options;
    options.endpoint = endpoint;
    options.bucket = "kv";
    options.credentials = [] { return Result<S3Credentials>(kCredentials); };
    options.connections = 3;
    options.object_bytes = kObjectBytes;
    options.retry_wait = std::chrono::milliseconds(1);
    options.timeout = std::chrono::minutes(1);
    return options;
}

Result<std::unique_ptr<S3Client>> make(const S3Client::Options& options) {
    return S3Client::make(options,
                          device::host_device().allocate_host(options.connections * options.object_bytes).value());
}

/// What came of one request, and the object.
Result<std::string> ask(S3Client& client, const S3Client::Request& request) {
    Result<std::string> result;
    std::size_t ended = 0;
    client.run(
        std::span(&request, 1),
        [&](std::size_t, Result<std::span<std::byte>> object) {
            ++ended;
            if (object) {
                result = std::string(reinterpret_cast<const char*>(object->data()), object->size());
            } else {
                result = base::pass_on(object);
            }
        },
        [] { return true; });
    REQUIRE(ended == 1);
    return result;
}

/// Fails the first `times` requests so.
std::function<Fault(const S3Server::Call&)> first(int times, Fault fault) {
    return [times, fault](const S3Server::Call&) mutable { return times-- > 0 ? fault : Fault::none; };
}

std::string content_of(std::size_t bytes, char first) {
    std::string content(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) {
        content[i] = static_cast<char>(static_cast<std::size_t>(first) + i * i);
    }
    return content;
}

}  // namespace

TEST_CASE("credentials are those of the default section, and an error tells none of them", "[kv_transfer]") {
    const auto found = parse_s3_credentials(
        "# mine\r\n[other]\naws_access_key_id = no\n[default]\naws_access_key_id=AK\r\n  aws_secret_access_key = s/e=c "
        "\n"
        "region = x\n[third]\naws_secret_access_key = no\n");
    REQUIRE(found);
    REQUIRE(found->access_key_id == "AK");
    REQUIRE(found->secret_access_key == "s/e=c");
    REQUIRE(found->session_token.empty());
    REQUIRE(parse_s3_credentials("aws_access_key_id=a\naws_secret_access_key=b\naws_session_token=c")->session_token ==
            "c");
    for (const char* text : {"", "secret", "[default]\naws_secret_access_key = hidden", "[default\n=\n==\n[", "\n\n"}) {
        const auto none = parse_s3_credentials(text);
        REQUIRE_FALSE(none);
        REQUIRE(none.error().code == ErrorCode::invalid_argument);
        REQUIRE(none.error().message.find("hidden") == std::string::npos);
    }
}

TEST_CASE("a page of a list says its objects and where the next one begins", "[kv_transfer]") {
    const auto page = parse_s3_list(
        "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>"
        "<Contents><Key>a/1&amp;2</Key><LastModified>x</LastModified><Size>17</Size></Contents>"
        "<Contents><Size>0</Size><Key>b</Key></Contents><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>to&lt;ken</NextContinuationToken></ListBucketResult>");
    REQUIRE(page);
    REQUIRE(page->objects.size() == 2);
    REQUIRE(page->objects[0].key == "a/1&2");
    REQUIRE(page->objects[0].bytes == 17);
    REQUIRE(page->objects[0].modified == "x");
    REQUIRE(page->objects[1].key == "b");
    REQUIRE(page->next == "to<ken");
    const auto last = parse_s3_list("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>");
    REQUIRE(last);
    REQUIRE(last->objects.empty());
    REQUIRE_FALSE(last->next);
    for (const char* wrong : {"", "<html>", "<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
                              "<ListBucketResult><Contents><Key>a</Key><Size>1x</Size></Contents></ListBucketResult>",
                              "<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
                              "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"}) {
        REQUIRE_FALSE(parse_s3_list(wrong));
    }
    REQUIRE(s3_error_code("<Error><Code>SlowDown</Code></Error>") == "SlowDown");
    REQUIRE(s3_error_code("<Error><Code>" + std::string(1000, 'x') + "</Code>").size() == 60);
    REQUIRE(s3_error_code("<Code>") == "");
}

TEST_CASE("an address that is none, and a name that is none, are refused", "[kv_transfer]") {
    const auto refused = [](const std::string& endpoint, const std::string& bucket) {
        auto options = options_for(endpoint);
        options.bucket = bucket;
        const auto made = make(options);
        if (made) { return false; }
        REQUIRE(made.error().code == ErrorCode::invalid_argument);
        REQUIRE(made.error().message.find("word") == std::string::npos);
        return true;
    };
    for (const char* endpoint :
         {"", "ftp://host", "http://host/path", "http://user:word@host", "file:///x", "http://host/?x=word"}) {
        CAPTURE(endpoint);
        REQUIRE(refused(endpoint, "bucket"));
    }
    REQUIRE(refused("http://host", ""));
    REQUIRE(refused("http://host", "a/b"));
    REQUIRE(refused("http://host", "a b"));
    REQUIRE_FALSE(refused("http://127.0.0.1:9", "bucket"));
    REQUIRE_FALSE(refused("https://host/", "bucket"));
    auto options = options_for("http://host");
    options.region = "eu west";
    REQUIRE_FALSE(make(options));
    options = options_for("http://host");
    options.credentials = [] {
        return Result<S3Credentials>(base::fail(ErrorCode::invalid_argument, "there are none"));
    };
    REQUIRE(make(options).error().message.find("there are none") != std::string::npos);
}

TEST_CASE("what was put is got, listed and removed, over signed requests", "[kv_transfer]") {
    S3Credentials credentials = kCredentials;
    SECTION("with a key alone") {}
    SECTION("with a session's token") {
        credentials.session_token = "token/+==";
    }
    const S3Server server("kv", credentials);
    auto options = options_for(server.endpoint());
    options.credentials = [&] { return Result<S3Credentials>(credentials); };
    const auto client = make(options).value();
    std::vector<std::string> contents;
    for (char i = 0; i < 10; ++i) {
        contents.push_back(content_of(kObjectBytes, i));
    }
    std::vector<S3Client::Request> requests;
    for (std::size_t i = 0; i < contents.size(); ++i) {
        requests.push_back({Verb::put, "a.b/c-" + std::to_string(i), std::as_bytes(std::span(contents[i]))});
    }
    std::size_t ended = 0;
    const auto count = [&](std::size_t, const Result<std::span<std::byte>>& result) {
        REQUIRE(result);
        ++ended;
    };
    client->run(requests, count, [] { return true; });
    REQUIRE(ended == 10);
    REQUIRE(server.objects().size() == 10);

    for (S3Client::Request& request : requests) {
        request.verb = Verb::get;
        request.sent = {};
    }
    std::vector<bool> came(10);
    client->run(
        requests,
        [&](std::size_t index, const Result<std::span<std::byte>>& object) {
            REQUIRE(object);
            came[index] = std::memcmp(object->data(), contents[index].data(), kObjectBytes) == 0;
        },
        [] { return true; });
    REQUIRE(came == std::vector<bool>(10, true));
    REQUIRE(ask(*client, {Verb::get, "a.b/d", {}}).error().code == ErrorCode::not_found);

    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(5);
    REQUIRE(client->list("a.b/", 100, until).objects.size() == 10);
    REQUIRE(client->list("a.b/", 4, until).objects.size() == 4);
    REQUIRE(client->list("a.b/c-7", 4, until).objects.front().bytes == kObjectBytes);
    REQUIRE(client->list("x y&z", 4, until).objects.empty());
    REQUIRE(client->list("a.b/", 100, std::chrono::steady_clock::now() - std::chrono::seconds(1)).error);
    REQUIRE(ask(*client, {Verb::remove, "a.b/c-7", {}}));
    REQUIRE(server.objects().size() == 9);
    REQUIRE(server.wrong_signatures() == 0);
}

TEST_CASE("a list of many objects comes page after page", "[kv_transfer]") {
    S3Server server("kv", kCredentials);
    S3Server::Objects objects;
    for (int i = 0; i < 2500; ++i) {
        objects["p/" + std::to_string(i)] = "x";
    }
    server.set_objects(objects);
    const auto client = make(options_for(server.endpoint())).value();
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(5);
    REQUIRE(client->list("p/", 10'000, until).objects.size() == 2500);
    REQUIRE(client->list("p/", 1500, until).objects.size() == 1500);
    int pages = 0;
    server.set_faults([&](const S3Server::Call&) { return ++pages > 1 ? Fault::refuse : Fault::none; });
    const auto some = client->list("p/", 10'000, until);
    REQUIRE(some.objects.size() == 1000);
    REQUIRE(some.error->code == ErrorCode::permission_denied);
}

TEST_CASE("what a moment mends is tried again, as often as is said", "[kv_transfer]") {
    const Fault fault = GENERATE(Fault::close, Fault::error, Fault::cut);
    S3Server server("kv", kCredentials);
    auto options = options_for(server.endpoint());
    std::size_t retries = 0;
    options.on_retry = [&] { ++retries; };
    options.retries = 2;
    const auto client = make(options).value();
    const std::string content = content_of(kObjectBytes, 1);
    REQUIRE(ask(*client, {Verb::put, "a", std::as_bytes(std::span(content))}));
    server.set_faults(first(2, fault));
    REQUIRE(ask(*client, {Verb::get, "a", {}}) == content);
    // A kept connection that is closed is curl's to mend, once.
    REQUIRE(retries >= 1);
    REQUIRE(retries <= 2);
    server.set_faults(first(1000, fault));
    retries = 0;
    REQUIRE_FALSE(ask(*client, {Verb::get, "a", {}}));
    REQUIRE(retries == 2);
    if (fault != Fault::cut) {
        server.set_faults(first(1, fault));
        const std::string other = content_of(kObjectBytes, 2);
        REQUIRE(ask(*client, {Verb::put, "b", std::as_bytes(std::span(other))}));
        REQUIRE(server.objects().at("b") == other);
    }
}

TEST_CASE("what no moment mends is an error by its kind, at once", "[kv_transfer]") {
    S3Server server("kv", kCredentials);
    auto options = options_for(server.endpoint());
    std::size_t retries = 0;
    options.on_retry = [&] { ++retries; };
    const auto client = make(options).value();
    const std::string content = content_of(kObjectBytes, 1);
    server.set_objects({{"a", content}});
    const auto code = [&](Fault fault, Verb verb = Verb::get) {
        server.set_faults(first(1, fault));
        const auto result = ask(*client, {verb, "a", {}});
        REQUIRE_FALSE(result);
        REQUIRE(result.error().message.find("secret") == std::string::npos);
        return result.error().code;
    };
    REQUIRE(code(Fault::refuse) == ErrorCode::permission_denied);
    REQUIRE(code(Fault::full, Verb::put) == ErrorCode::resource_exhausted);
    REQUIRE(code(Fault::shorter) == ErrorCode::data_loss);
    REQUIRE(code(Fault::longer) == ErrorCode::data_loss);
    REQUIRE(retries == 0);
    REQUIRE(ask(*client, {Verb::get, "a", {}}) == content);
    server.set_objects({{"a", "short"}});
    REQUIRE(ask(*client, {Verb::get, "a", {}}).error().code == ErrorCode::data_loss);
}

TEST_CASE("a store that is not there, or is silent, ends in time and gets no more than was begun", "[kv_transfer]") {
    S3Server server("kv", kCredentials);
    server.set_faults(first(1000, Fault::silent));
    std::string endpoint = "http://127.0.0.1:1";  // nobody listens on tcpmux
    ErrorCode expected = ErrorCode::unavailable;
    auto timeout = std::chrono::milliseconds(60'000);
    SECTION("not there") {}
    SECTION("silent") {
        endpoint = server.endpoint();
        timeout = std::chrono::milliseconds(50);
        expected = ErrorCode::deadline_exceeded;
    }
    auto options = options_for(endpoint);
    options.timeout = timeout;
    options.connections = 2;
    options.retries = 1;
    const auto client = make(options).value();
    const std::vector<S3Client::Request> requests(10, {Verb::get, "a", {}});
    std::size_t ended = 0;
    client->run(
        requests,
        [&](std::size_t, const Result<std::span<std::byte>>& result) {
            ++ended;
            REQUIRE(result.error().code == expected);
            REQUIRE(result.error().message.find("secret") == std::string::npos);
        },
        [&] { return ended == 0; });
    REQUIRE(ended >= 1);
    REQUIRE(ended <= 2);
    REQUIRE(client->list("x", 10, std::chrono::steady_clock::now() + std::chrono::minutes(1)).error->code == expected);
}

TEST_CASE("credentials that were replaced are read after the store refused", "[kv_transfer]") {
    S3Server server("kv", kCredentials);
    auto options = options_for(server.endpoint());
    S3Credentials current = kCredentials;
    bool is_readable = true;
    options.credentials = [&] {
        return is_readable ? Result<S3Credentials>(current) : base::fail(ErrorCode::invalid_argument, "no file");
    };
    const auto client = make(options).value();
    const std::string content = content_of(kObjectBytes, 1);
    const S3Client::Request put{Verb::put, "a", std::as_bytes(std::span(content))};
    REQUIRE(ask(*client, put));
    current.secret_access_key = "another";
    server.set_credentials(current);
    REQUIRE(ask(*client, put).error().code == ErrorCode::permission_denied);
    is_readable = false;
    REQUIRE(ask(*client, put).error().code == ErrorCode::permission_denied);  // with those of before
    is_readable = true;
    REQUIRE(ask(*client, put));
    REQUIRE(server.wrong_signatures() == 2);
}
