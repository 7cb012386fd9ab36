#include "gateway/trace_capture.h"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>

#include "base/clock.h"
#include "gateway/request/prompt_hashes.h"
#include "gateway/request/sequence_source.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;

base::HashKey key(unsigned char byte) {
    base::HashKey made;
    made.bytes.fill(std::byte{byte});
    return made;
}

gateway::CapturedRow row(std::uint64_t first_block, std::uint32_t blocks, const std::string& session = "") {
    gateway::CapturedRow made;
    made.received_at = base::TimePoint(10s);
    made.ended_at = base::TimePoint(12s);
    made.prompt_tokens = 600;
    made.output_tokens = 7;
    made.block_tokens = 64;
    made.session = session;
    made.model = "m";
    made.slo_class = "default";
    for (std::uint64_t i = 0; i < blocks; ++i) {
        made.blocks.push_back({first_block + i, 1});
    }
    return made;
}

boost::json::object parsed(const std::string& line) {
    REQUIRE(line.ends_with("}\n"));
    REQUIRE(line.find('\n') == line.size() - 1);
    return boost::json::parse(line).as_object();
}

/// A folder that goes when the test ends.
struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("sluice-capture-" + std::to_string(getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string read(const std::string& name) const {
        std::ostringstream text;
        text << std::ifstream(path / name).rdbuf();
        return text.str();
    }
};

/// A prompt of `tokens` tokens and its end.
struct Ended {
    gateway::GenerationRequest request;
    gateway::GenerationEnd end;
    explicit Ended(std::size_t tokens, std::uint32_t answer) {
        std::vector<base::TokenId> prompt;
        for (std::size_t i = 0; i < tokens; ++i) {
            prompt.push_back(base::TokenId(static_cast<std::int32_t>(i)));
        }
        base::HashScope scope;
        scope.block_tokens = 16;
        request.hashes = std::make_shared<gateway::PromptHashes>(key(1), scope, prompt);
        request.tenant = "somebody";
        request.session = "a conversation";
        request.slo.class_name = "chat";
        end.prompt_tokens = static_cast<std::uint32_t>(tokens);
        end.completion_tokens = answer;
    }
};

double count(base::Metrics& metrics, const char* result) {
    return metrics.counter("sluice_gateway_capture_rows_total", "", {{"result", result}}).Value();
}

}  // namespace

TEST_CASE("a captured row tells lengths, times and which prompts begin alike", "[gateway][capture]") {
    gateway::CaptureLines lines(key(7), base::TimePoint(9s));
    const auto first = parsed(lines.line(row(100, 9)));
    CHECK(first.at("timestamp").to_number<double>() == 1000);
    CHECK(first.at("input_length") == 600);
    CHECK(first.at("output_length") == 7);
    CHECK(first.at("block_tokens") == 64);
    CHECK(first.at("slo_class") == "default");
    CHECK(!first.contains("session_id"));
    const auto again = parsed(lines.line(row(100, 5)));
    REQUIRE(again.at("hash_ids").as_array().size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(again.at("hash_ids").as_array()[i] == first.at("hash_ids").as_array()[i]);
        CHECK(first.at("hash_ids").as_array()[i].to_number<std::uint64_t>() < 1ull << 53u);
    }
    CHECK(parsed(lines.line(row(200, 1))).at("hash_ids") != parsed(lines.line(row(100, 1))).at("hash_ids"));
    gateway::CaptureLines other(key(8), base::TimePoint(9s));  // another key: nothing can be compared
    CHECK(parsed(other.line(row(100, 9))).at("hash_ids") != first.at("hash_ids"));
}

TEST_CASE("a conversation is a number, and its turns say how long they thought", "[gateway][capture]") {
    gateway::CaptureLines lines(key(7), base::TimePoint(9s));
    const std::string text = lines.line(row(1, 1, "secret"));
    CHECK(text.find("secret") == std::string::npos);
    CHECK(parsed(text).at("session_id") == 1);
    CHECK(!parsed(text).contains("delay"));
    auto next = row(1, 1, "secret");
    next.received_at = base::TimePoint(12500ms);
    const auto turn = parsed(lines.line(next));
    CHECK(turn.at("session_id") == 1);
    CHECK(turn.at("delay").to_number<double>() == 500);
    CHECK(parsed(lines.line(row(1, 1, "other"))).at("session_id") == 2);
}

TEST_CASE("conversations are remembered up to a bound", "[gateway][capture]") {
    gateway::CaptureLines lines(key(7), base::TimePoint(9s));
    for (std::size_t i = 0; i <= gateway::CaptureLines::kSessionsMax; ++i) {
        static_cast<void>(lines.line(row(1, 0, "s" + std::to_string(i))));
    }
    CHECK(parsed(lines.line(row(1, 0, "s0"))).at("session_id") == gateway::CaptureLines::kSessionsMax + 2);
    CHECK(parsed(lines.line(row(1, 0, "s2"))).at("session_id") == 3);
}

TEST_CASE("a capture's file keeps to its size, and what was there is put aside", "[gateway][capture]") {
    const Folder folder;
    const std::string path = (folder.path / "trace.jsonl").string();
    {
        auto file = gateway::CaptureFile::open(path, 25);
        REQUIRE(file);
        CHECK((*file)->add("0123456789\n"));
        CHECK((*file)->add("0123456789\n"));
        CHECK((*file)->add("0123456789\n").error().code == base::ErrorCode::resource_exhausted);
        CHECK((*file)->add("01\n"));
        CHECK(folder.read("trace.jsonl") == "0123456789\n0123456789\n01\n");
        struct stat about{};
        REQUIRE(stat(path.c_str(), &about) == 0);
        CHECK((about.st_mode & 0777u) == 0600u);
    }
    REQUIRE(gateway::CaptureFile::open(path, 25));
    CHECK(folder.read("trace.jsonl").empty());
    CHECK(folder.read("trace.jsonl.old") == "0123456789\n0123456789\n01\n");
    CHECK(gateway::CaptureFile::open((folder.path / "nowhere" / "trace").string(), 25)
              .error()
              .message.find("capture.file: cannot write") == 0);
}

TEST_CASE("a full disk costs rows and nothing else", "[gateway][capture]") {
    auto file = gateway::CaptureFile::open("/dev/full", 1 << 20);
    REQUIRE(file);
    const auto added = (*file)->add("0123456789\n");
    REQUIRE(!added);
    CHECK(added.error().code == base::ErrorCode::unavailable);
    CHECK(added.error().message.find("No space left") != std::string::npos);
}

TEST_CASE("sequences become rows with the blocks that were asked for", "[gateway][capture]") {
    base::FakeClock clock;
    base::Metrics metrics;
    std::vector<std::string> written;
    {
        gateway::CaptureOptions options;
        options.block_tokens = 40;  // three KV blocks
        gateway::TraceCapture capture({.options = options,
                                       .sink = [&](std::string_view line) -> base::Result<void> {
                                           written.emplace_back(line);
                                           return {};
                                       },
                                       .metrics = metrics,
                                       .clock = clock});
        const Ended ended(200, 5);
        capture.on_sequence_end(ended.request, ended.end, "m");
        const Ended refused(200, 0);
        capture.on_sequence_end(refused.request, refused.end, "m");
        Ended vector(20, 1);
        vector.request.encodes = true;
        capture.on_sequence_end(vector.request, vector.end, "m");
    }
    REQUIRE(written.size() == 1);
    const auto row = parsed(written[0]);
    CHECK(row.at("block_tokens") == 48);
    CHECK(row.at("hash_ids").as_array().size() == 4);
    CHECK(row.at("slo_class") == "chat");
    CHECK(written[0].find("conversation") == std::string::npos);
    CHECK(written[0].find("somebody") == std::string::npos);
    CHECK(count(metrics, "written") == 1);
    CHECK(count(metrics, "without_tokens") == 1);
}

TEST_CASE("who writes slowly costs rows, which are counted, and holds up nobody", "[gateway][capture]") {
    base::FakeClock clock;
    base::Metrics metrics;
    std::promise<void> begun;
    std::promise<void> go_on;
    bool is_first = true;
    {
        gateway::TraceCapture capture({.options = {},
                                       .sink = [&](std::string_view) -> base::Result<void> {
                                           if (std::exchange(is_first, false)) {
                                               begun.set_value();
                                               go_on.get_future().wait();
                                           }
                                           return base::fail(base::ErrorCode::unavailable, "cannot write");
                                       },
                                       .metrics = metrics,
                                       .clock = clock,
                                       .rows_max = 2});
        const Ended ended(20, 5);
        capture.on_sequence_end(ended.request, ended.end, "m");
        begun.get_future().wait();
        for (int i = 0; i < 5; ++i) {
            capture.on_sequence_end(ended.request, ended.end, "m");
        }
        CHECK(count(metrics, "queue_full") == 3);
        go_on.set_value();
    }
    CHECK(count(metrics, "failed") == 3);
}
