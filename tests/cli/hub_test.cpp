#include "cli/model/hub.h"

#include "tests/cli/folder.h"
#include "tests/support/catch.h"

using namespace cli::model;

namespace {

const std::string kCommit(40, 'c');
const std::string kSha256(64, 'a');
const std::string kSha1(40, 'b');

std::string listing(const std::string& siblings) {
    return R"({"sha":")" + kCommit + R"(","cardData":{"license":"apache-2.0"},"siblings":[)" + siblings + "]}";
}

HttpAnswer answer(long status) {
    HttpAnswer reply;
    reply.head.status = status;
    reply.head.host = "hub";
    return reply;
}

}  // namespace

TEST_CASE("a listing says what each file must hash to", "[cli][model]") {
    const auto read = parse_hub_listing(listing(R"({"rfilename":"config.json","size":12,"blobId":")" + kSha1 +
                                                R"("},{"rfilename":"model.safetensors","size":130,"blobId":")" + kSha1 +
                                                R"(","lfs":{"sha256":")" + kSha256 +
                                                R"(","size":99,"pointerSize":130}},{"rfilename":".gitattributes"})"));
    REQUIRE(read);
    CHECK(read->commit == kCommit);
    CHECK(read->licence == "apache-2.0");
    REQUIRE(read->files.size() == 2);
    CHECK(read->files[0].git_sha1 == kSha1);
    CHECK(read->files[0].bytes == 12);
    CHECK(read->files[1].sha256 == kSha256);
    CHECK(read->files[1].git_sha1.empty());
    CHECK(read->files[1].bytes == 99);
}

TEST_CASE("a listing that cannot be held against the bytes is refused", "[cli][model]") {
    for (const std::string& bad :
         {std::string("["), std::string("[]"), std::string("{}"), std::string(R"({"sha":"main","siblings":[]})"),
          R"({"sha":")" + kCommit + "\"}", listing(R"({"rfilename":"config.json","size":12})"),
          listing(R"({"rfilename":"config.json","blobId":")" + kSha1 + "\"}"),
          listing(R"({"rfilename":"config.json","size":-1,"blobId":")" + kSha1 + "\"}")}) {
        CAPTURE(bad);
        const auto read = parse_hub_listing(bad);
        REQUIRE_FALSE(read);
        CHECK(read.error().code == base::ErrorCode::data_loss);
    }
}

TEST_CASE("a file that would leave the model's folder is not offered", "[cli][model]") {
    const auto read = parse_hub_listing(listing(R"({"rfilename":"../../x","size":1,"blobId":")" + kSha1 + "\"}"));
    REQUIRE(read);
    CHECK(read->files.empty());
}

TEST_CASE("an answer says what to do", "[cli][model]") {
    const HubSource source{"org/repo", "main", ""};
    HubAccess nobody;
    HubAccess known;
    known.token = "hf_x";
    CHECK(explain_hub_status(answer(401), source, nobody).code == base::ErrorCode::unauthenticated);
    CHECK(explain_hub_status(answer(401), source, nobody).message.find("set HF_TOKEN") != std::string::npos);
    CHECK(explain_hub_status(answer(401), source, known).message.find("not accepted") != std::string::npos);
    CHECK(explain_hub_status(answer(403), source, known).message.find("https://huggingface.co/org/repo") !=
          std::string::npos);
    CHECK(explain_hub_status(answer(404), source, nobody).code == base::ErrorCode::not_found);
    CHECK(explain_hub_status(answer(503), source, nobody).code == base::ErrorCode::unavailable);
    HttpAnswer busy = answer(429);
    busy.head.headers["retry-after"] = "3600";
    CHECK(explain_hub_status(busy, source, nobody).message.find("3600 s") != std::string::npos);
    HttpAnswer chatty = answer(500);
    chatty.error_text = "a\r\nb\x1b[31m" + std::string(1000, 'x');
    const std::string said = explain_hub_status(chatty, source, nobody).message;
    CHECK(said.size() < 300);
    CHECK(said.find_first_of("\r\n\x1b") == std::string::npos);
}

TEST_CASE("the hub is the one that the environment names", "[cli][model]") {
    {
        const cli_test::Variable endpoint("HF_ENDPOINT", "https://mirror.example/hub/");
        const cli_test::Variable token("HF_TOKEN", "hf_secret");
        const cli_test::Variable offline("HF_HUB_OFFLINE", "1");
        const auto access = hub_access_from_environment();
        REQUIRE(access);
        CHECK(access->token == "hf_secret");
        CHECK(access->is_offline);
        CHECK(hub_file_url(*access, "org/repo", kCommit, "sub/a b.gguf") ==
              "https://mirror.example/hub/org/repo/resolve/" + kCommit + "/sub/a%20b.gguf");
    }
    const cli_test::Variable endpoint("HF_ENDPOINT", "ftp://x");
    CHECK_FALSE(hub_access_from_environment());
}

TEST_CASE("only the addresses of this machine are loopback", "[cli][model]") {
    for (const char* here : {"http://127.0.0.1:80/x", "http://127.9.9.9/", "http://localhost/", "http://[::1]:8080/"}) {
        CHECK(parse_url(here).value().is_loopback());
    }
    for (const char* there : {"http://127.0.0.1.example/", "http://example/127.0.0.1", "https://10.0.0.1/"}) {
        CHECK_FALSE(parse_url(there).value().is_loopback());
    }
    CHECK_FALSE(parse_url("file:///etc/passwd"));
    CHECK_FALSE(parse_url("nonsense"));
}
