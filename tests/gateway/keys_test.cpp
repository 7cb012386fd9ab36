// API keys: the file, who may ask what, and what is counted.
#include "gateway/keys/api_key.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "gateway/keys/key_keeper.h"
#include "gateway/keys/quota.h"

#include "tests/gateway/api_world.h"
#include "tests/support/catch.h"

namespace {

using namespace gateway_test;
using namespace std::chrono_literals;
using gateway::ApiKey;
using gateway::MinuteAllowance;
using gateway::QuotaBook;

struct Folder {
    Folder() {
        char name[] = "/tmp/sluice-keys-XXXXXX";
        path = mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string file() const { return path + "/keys.json"; }
    void write(const std::vector<ApiKey>& keys) const { REQUIRE(gateway::write_key_list(file(), keys)); }
    void write_text(const std::string& text) const {
        std::ofstream(file()) << text;
        REQUIRE(chmod(file().c_str(), 0600) == 0);
    }
    std::string path;
};

ApiKey key_of(const std::string& secret, const std::string& id) {
    ApiKey key;
    key.id = key.tenant = id;
    key.digest = gateway::digest_of_key(secret);
    return key;
}

gateway::RequestHead head_with(std::vector<std::pair<std::string, std::string>> fields) {
    gateway::RequestHead head;
    head.method = "POST";
    head.path = head.sent_path = "/v1/chat/completions";
    head.fields = std::move(fields);
    return head;
}

/// A gateway that asks for keys.
struct KeyWorld : World {
    explicit KeyWorld(std::vector<ApiKey> keys, gateway::GatewayOptions given = {}) : World(std::move(given)) {
        folder.write(keys);
        keeper =
            gateway::KeyKeeper::open({.path = folder.file(), .clock = owner.clock, .metrics = owner.metrics}).value();
        use_keys(keeper.get());
    }
    std::shared_ptr<FakeExchange> ask(const std::string& secret, const std::string& method, const std::string& path,
                                      const std::string& body = "") {
        return send(method, path, body, {{"authorization", "Bearer " + secret}});
    }
    Folder folder;
    std::unique_ptr<gateway::KeyKeeper> keeper;
};

std::string field_of(const FakeExchange& exchange, std::string_view name) {
    for (const auto& [field, value] : exchange.response->fields) {
        if (field == name) { return value; }
    }
    return "";
}

constexpr const char* kCompletion = R"({"model":"m","prompt":"ab","max_tokens":8})";

}  // namespace

TEST_CASE("keys are random, and only their digest is kept", "[gateway][keys]") {
    const std::string one = gateway::random_api_key();
    REQUIRE(one.size() == 53);
    REQUIRE(one.starts_with("sk-sluice-"));
    REQUIRE(one != gateway::random_api_key());
    ApiKey key = key_of(one, "k1");
    key.models = {"m", "n"};
    key.scopes = {"chat"};
    key.slo_classes = {"batch"};
    key.requests_per_minute = 60;
    key.tokens_per_minute = 100'000;
    key.concurrent = 3;
    key.created_unix_s = 1'700'000'000;
    key.expires_unix_s = 1'800'000'000;
    const Folder folder;
    folder.write({key, key_of("another key that is long", "k2")});
    std::ifstream file(folder.file());
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    REQUIRE(text.find(one.substr(10)) == std::string::npos);
    struct ::stat about{};
    REQUIRE(::stat(folder.file().c_str(), &about) == 0);
    REQUIRE((about.st_mode & 0777) == 0600);
    const auto read = gateway::read_key_list(folder.file()).value();
    REQUIRE(read.size() == 2);
    CHECK(read[0].digest == key.digest);
    CHECK(read[0].models == key.models);
    CHECK(read[0].scopes == key.scopes);
    CHECK(read[0].slo_classes == key.slo_classes);
    CHECK(read[0].requests_per_minute == 60);
    CHECK(read[0].tokens_per_minute == 100'000);
    CHECK(read[0].concurrent == 3);
    CHECK(read[0].created_unix_s == key.created_unix_s);
    CHECK(read[0].expires_unix_s == key.expires_unix_s);
    CHECK_FALSE(read[1].expires_unix_s.has_value());
}

TEST_CASE("a file of keys that is wrong says which key and which field", "[gateway][keys]") {
    const std::string digest(64, 'a');
    const auto message = [](const std::string& text) {
        const auto keys = gateway::parse_keys(text);
        REQUIRE_FALSE(keys);
        return keys.error().message;
    };
    const auto one = [&](const std::string& fields) { return R"({"keys":[{)" + fields + "}]}"; };
    CHECK(message("{").find("no JSON") != std::string::npos);
    CHECK(message("[]").find("must be one object") != std::string::npos);
    CHECK(message(R"({"keys":[1]})").find("key 1: must be an object") != std::string::npos);
    CHECK(message(one("")).find("'id' is missing") != std::string::npos);
    CHECK(message(one(R"("id":"a b","sha256":")" + digest + "\"")).find("'id'") != std::string::npos);
    CHECK(message(one(R"("id":"a","sha256":"AA")")).find("'sha256'") != std::string::npos);
    const std::string good = R"("id":"a","sha256":")" + digest + "\"";
    REQUIRE(gateway::parse_keys(one(good)));
    CHECK(message(one(good + R"(,"scopes":["root"])")).find("knows no 'root'") != std::string::npos);
    CHECK(message(one(good + R"(,"scopes":[])")).find("empty list") != std::string::npos);
    CHECK(message(one(good + R"(,"concurrent":0)")).find("'concurrent'") != std::string::npos);
    CHECK(message(one(good + R"(,"requests_per_minute":1.5)")).find("'requests_per_minute'") != std::string::npos);
    CHECK(message(one(good + R"(,"expires":"30d")")).find("'expires'") != std::string::npos);
    CHECK(message(one(good + R"(,"expires":"2027-02-30")")).find("'expires'") != std::string::npos);
    CHECK(message(one(good + R"(,"key":"secret")")).find("'key' is not known") != std::string::npos);
    CHECK(message(R"({"keys":[{)" + good + "},{" + good + "}]}").find("key 2: another one has the id a") !=
          std::string::npos);
    CHECK(message(R"({"keys":[{)" + good + R"(},{"id":"b","sha256":")" + digest + "\"}]}")
              .find("key 2: another one has its sha256") != std::string::npos);
    const Folder folder;
    CHECK(gateway::read_key_list(folder.file()).error().code == base::ErrorCode::not_found);
    folder.write_text(one(good));
    REQUIRE(chmod(folder.file().c_str(), 0666) == 0);
    CHECK(gateway::read_key_list(folder.file()).error().code == base::ErrorCode::permission_denied);
    CHECK(gateway::read_key_list(folder.path).error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("the end of a key is a day, a time, or a while from now", "[gateway][keys]") {
    CHECK(gateway::parse_expiry("1970-01-02", 0).value() == 86'400);
    CHECK(gateway::parse_expiry("2027-01-31T12:00:05Z", 0).value() == 1'801'396'805);
    CHECK(gateway::format_time(1'801'396'805) == "2027-01-31T12:00:05Z");
    CHECK(gateway::parse_expiry("30d", 1000).value() == 1000 + 30 * 86'400);
    CHECK(gateway::parse_expiry("12h", 0).value() == 43'200);
    for (const char* text : {"", "d", "0d", "-1d", "2027-13-01", "2027-02-30", "2027-1-1", "tomorrow",
                             "2027-01-31T25:00:00Z", "20270131"}) {
        CAPTURE(text);
        CHECK_FALSE(gateway::parse_expiry(text, 0));
    }
}

TEST_CASE("an allowance fills steadily, holds a minute's worth, and pays its debts", "[gateway][keys]") {
    base::TimePoint now{};
    MinuteAllowance allowance(60, now);
    REQUIRE(allowance.take(60, now));
    REQUIRE_FALSE(allowance.take(1, now));
    CHECK(allowance.wait(1, now) == 1s);
    now += 1s;
    REQUIRE(allowance.take(1, now));
    now += 1h;
    CHECK(allowance.left(now) == 60);  // and no more
    // More than a minute's worth is possible, once it is full, and is paid for afterwards.
    REQUIRE(allowance.take(180, now));
    CHECK(allowance.left(now) == 0);
    CHECK(allowance.wait(1, now) == 121s);
    allowance.settle(150, now);  // it was 30 in the end
    CHECK(allowance.left(now) == 30);
    allowance.settle(-90, now);  // or rather 120
    CHECK(allowance.wait(60, now) == 120s);
    CHECK(allowance.until_full(now) == 120s);
}

TEST_CASE("a key is shown as a bearer token or as x-api-key, and two that differ are none", "[gateway][keys]") {
    KeyWorld world({key_of("the first secret", "k1"), key_of("the second secret", "k2")});
    const auto id = [&](std::vector<std::pair<std::string, std::string>> fields) -> std::string {
        const auto key = world.keeper->who(head_with(std::move(fields)));
        return key ? (*key)->id : "401 " + key.error().message;
    };
    CHECK(id({{"authorization", "Bearer the first secret"}}) == "k1");
    CHECK(id({{"authorization", "bEaReR   the second secret"}}) == "k2");
    CHECK(id({{"x-api-key", "the second secret"}}) == "k2");
    CHECK(id({{"x-api-key", "the first secret"}, {"authorization", "Bearer the first secret"}}) == "k1");
    CHECK(id({{"authorization", "Basic dXNlcjpwYXNz"}, {"x-api-key", "the first secret"}}) == "k1");
    CHECK(
        id({{"x-api-key", "the first secret"}, {"authorization", "Bearer the second secret"}}).find("two different") !=
        std::string::npos);
    for (const auto& fields :
         std::vector<std::vector<std::pair<std::string, std::string>>>{{},
                                                                       {{"authorization", "Bearer "}},
                                                                       {{"authorization", "the first secret"}},
                                                                       {{"authorization", "Basic dXNlcjpwYXNz"}}}) {
        CHECK(id(fields).find("no API key was given") != std::string::npos);
    }
    CHECK(id({{"authorization", "Bearer The first secret"}}).find("not valid") != std::string::npos);
    CHECK(id({{"authorization", "Bearer the first secret "}}).find("not valid") != std::string::npos);
}

TEST_CASE("at the door only health is open, and the answer to a stranger is OpenAI's", "[gateway][keys]") {
    KeyWorld world({key_of("the first secret", "k1")});
    const auto refused = [&](const std::string& method, const std::string& path) {
        gateway::RequestHead head;
        head.method = method;
        head.path = path;
        return world.keeper->refusal(head).has_value();
    };
    for (const char* path : {"/live", "/health", "/ready", "/v1/health"}) {
        CHECK_FALSE(refused("GET", path));
        CHECK(refused("POST", path));
    }
    CHECK_FALSE(refused("OPTIONS", "/v1/chat/completions"));
    for (const char* path : {"/", "/metrics", "/v1/models", "/version", "/server_info", "/v1/chat/completions",
                             "/nothing", "/live/..", "/healthy"}) {
        CAPTURE(path);
        CHECK(refused("GET", path));
    }
    const auto stranger = world.send("POST", "/v1/completions", kCompletion);
    REQUIRE(stranger->response->status == 401);
    CHECK(body(*stranger).at("error").at("code") == "invalid_api_key");
    CHECK(field_of(*stranger, "WWW-Authenticate") == "Bearer");
    CHECK(world.owner.ports.placed.empty());
}

TEST_CASE("a key opens what it is for", "[gateway][keys]") {
    ApiKey chats = key_of("a key for chats", "chats");
    chats.scopes = {"chat", "models"};
    chats.models = {"other"};
    ApiKey admin = key_of("a key for operators", "admin");
    admin.scopes = {"admin"};
    ApiKey batch = key_of("a key for the night", "batch");
    batch.slo_classes = {"slow"};
    KeyWorld world({chats, admin, batch, key_of("a plain key", "plain")});
    const auto status = [&](const std::string& secret, const std::string& method, const std::string& path,
                            const std::string& text = "") {
        return world.ask(secret, method, path, text)->response->status;
    };
    const std::string chat = R"({"model":"m","messages":[{"role":"user","content":"a"}]})";
    CHECK(status("a key for chats", "POST", "/v1/completions", kCompletion) == 403u);
    CHECK(status("a key for chats", "POST", "/v1/chat/completions", chat) == 404u);  // the model is not for it
    CHECK(body(*world.ask("a key for chats", "GET", "/v1/models")).at("data").as_array().empty());
    CHECK(status("a key for chats", "GET", "/v1/models/m") == 404u);
    CHECK(status("a key for chats", "GET", "/metrics") == 403u);
    CHECK(status("a plain key", "GET", "/metrics") == 403u);
    CHECK(status("a plain key", "GET", "/v1/models/m") == 200u);
    CHECK(body(*world.ask("a plain key", "GET", "/v1/models")).at("data").as_array().size() == 2u);
    CHECK(status("a plain key", "POST", "/tokenize", R"({"prompt":"a"})") == 200u);
    CHECK(status("a key for operators", "GET", "/metrics") == 200u);
    CHECK(status("a key for operators", "GET", "/server_info") == 200u);
    CHECK(status("a key for operators", "POST", "/tokenize", R"({"prompt":"a"})") == 403u);
    const auto refused = world.ask("a key for the night", "POST", "/v1/completions", kCompletion);
    CHECK(refused->response->status == 403u);
    CHECK(body(*refused).at("error").at("message").as_string().find("'default'") != std::string::npos);
    CHECK(world.owner.ports.placed.empty());
}

TEST_CASE("what a key uses is counted, told, and bounded", "[gateway][keys]") {
    ApiKey key = key_of("a key with bounds", "k1");
    key.tenant = "team";
    key.requests_per_minute = 3;
    key.tokens_per_minute = 100;
    KeyWorld world({key});
    const auto ask = [&](const std::string& text) {
        return world.ask("a key with bounds", "POST", "/v1/completions", text);
    };
    const auto first = ask(kCompletion);
    REQUIRE_FALSE(first->response);
    REQUIRE(world.owner.ports.placed.size() == 1);
    CHECK(world.owner.ports.placed[0].tenant() == "team");

    const auto large = ask(R"({"model":"m","prompt":"ab","max_tokens":95})");  // 3 + 8 are reserved for the first
    REQUIRE(large->response->status == 429);
    CHECK(body(*large).at("error").at("code") == "rate_limit_exceeded");
    CHECK(body(*large).at("error").at("message").as_string().find("tokens per minute") != std::string::npos);
    CHECK(field_of(*large, "Retry-After") == "6");  // 9 tokens at 100 a minute
    CHECK(field_of(*large, "x-ratelimit-limit-requests") == "3");
    CHECK(field_of(*large, "x-ratelimit-remaining-requests") == "1");
    CHECK(field_of(*large, "x-ratelimit-limit-tokens") == "100");
    CHECK(field_of(*large, "x-ratelimit-remaining-tokens") == "89");

    REQUIRE_FALSE(ask(kCompletion)->response);
    const auto fourth = ask(kCompletion);
    REQUIRE(fourth->response->status == 429);
    CHECK(body(*fourth).at("error").at("message").as_string().find("requests per minute") != std::string::npos);
    world.owner.clock.advance(20s);
    REQUIRE_FALSE(ask(kCompletion)->response);
    const std::string metrics = world.owner.metrics.text();
    CHECK(metrics.find("sluice_gateway_quota_refusals_total{bound=\"tokens\"} 1") != std::string::npos);
    CHECK(metrics.find("sluice_gateway_quota_refusals_total{bound=\"requests\"} 1") != std::string::npos);
    CHECK(metrics.find("rejected_quota") != std::string::npos);
}

TEST_CASE("requests in work are bounded, and leave when they end", "[gateway][keys]") {
    base::TimePoint now{};
    const auto book = std::make_shared<QuotaBook>();
    ApiKey key = key_of("secret", "k1");
    key.concurrent = 2;
    key.tokens_per_minute = 1000;
    auto one = book->open(key, now).value();
    auto two = book->open(key, now).value();
    REQUIRE(book->open(key, now).error().bound == QuotaBook::Bound::concurrent);
    REQUIRE_FALSE(one->reserve(800, now));
    REQUIRE(two->reserve(300, now)->bound == QuotaBook::Bound::tokens);
    one->settle(100, now);
    one->settle(900, now);  // once is enough
    CHECK(two->standing(now).tokens->remaining == 900);
    CHECK_FALSE(two->standing(now).requests.has_value());
    REQUIRE_FALSE(two->reserve(300, now));
    two.reset();  // nobody said what it used
    auto three = book->open(key, now).value();
    CHECK(three->standing(now).tokens->remaining == 600);
    // A key that was taken out is forgotten once nothing of it is in work.
    book->forget_others({});
    CHECK(three->standing(now).tokens->remaining == 600);
    three->settle(0, now);
    book->forget_others({});
    CHECK(book->open(key, now).value()->standing(now).tokens->remaining == 1000);
}

TEST_CASE("keys change while the gateway runs; a file that is wrong changes nothing", "[gateway][keys]") {
    KeyWorld world({key_of("the first secret", "k1")});
    const auto is_known = [&](const std::string& secret) {
        return world.keeper->who(head_with({{"x-api-key", secret}})).has_value();
    };
    const auto look = [&] {
        world.owner.clock.advance(2s);
        world.keeper->tick(world.owner.clock.now());
    };
    world.folder.write({key_of("the second secret", "k2"), key_of("the third secret!", "k3")});
    REQUIRE(is_known("the first secret"));  // not looked yet
    look();
    REQUIRE_FALSE(is_known("the first secret"));
    REQUIRE(is_known("the second secret"));
    world.folder.write_text("{");
    look();
    REQUIRE(is_known("the second secret"));
    CHECK(world.owner.metrics.text().find("sluice_gateway_keys_file_valid 0") != std::string::npos);
    std::filesystem::remove(world.folder.file());
    look();
    REQUIRE(is_known("the second secret"));
    ApiKey expiring = key_of("the second secret", "k2");
    expiring.expires_unix_s = world.owner.clock.unix_us() / 1'000'000 + 60;
    world.folder.write({expiring});
    look();
    REQUIRE(is_known("the second secret"));
    CHECK(world.owner.metrics.text().find("sluice_gateway_keys_file_valid 1") != std::string::npos);
    world.owner.clock.advance(60s);
    CHECK(world.keeper->who(head_with({{"x-api-key", "the second secret"}})).error().message.find("has expired") !=
          std::string::npos);
}
