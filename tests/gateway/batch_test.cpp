// Files and batches: forms, the store's file, how fast they go, and the way of a request through the runner.
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <set>
#include <string>

#include "gateway/batch/batch_desk.h"
#include "gateway/batch/batch_form.h"
#include "gateway/batch/batch_pace.h"
#include "gateway/batch/batch_runner.h"
#include "gateway/batch/batch_store.h"
#include "gateway/batch/multipart.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using namespace std::chrono_literals;
using gateway::BatchOutcome;
using gateway::BatchRecord;
using gateway::BatchStatus;
using gateway::BatchStore;
using gateway::FileRecord;

constexpr char kChat[] = "/v1/chat/completions";

std::string line(const std::string& id, const std::string& more = "") {
    return R"({"custom_id":")" + id + R"(","method":"POST","url":"/v1/chat/completions","body":{"model":"m")" + more +
           "}}\n";
}

struct Folder {
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "sluice-batch-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string file() const { return path + "/batches.sqlite"; }
    std::string path;
};

std::unique_ptr<BatchStore> open(const Folder& folder, BatchStore::Bounds bounds = {1 << 24, 100, 10}) {
    auto store = BatchStore::open(folder.file(), bounds);
    if (!store) { FAIL(store.error().message); }
    return std::move(*store);
}

FileRecord file(const std::string& id, const std::string& tenant = "t", std::int64_t at = 1) {
    return {.id = id, .tenant = tenant, .name = "in.jsonl", .purpose = "batch", .created_at = at, .bytes = 1};
}

BatchRecord batch(const std::string& id, const std::string& input, const std::string& tenant = "t") {
    BatchRecord record;
    record.id = id;
    record.tenant = tenant;
    record.endpoint = kChat;
    record.input_file = input;
    record.window = "24h";
    record.created_at = 1;
    record.expires_at = 1'000'000'000'000;
    return record;
}

/// A batch of `count` requests, read and begun.
BatchRecord begin(BatchStore& store, const std::string& id, int count) {
    std::string content;
    for (int i = 0; i < count; ++i) {
        content += line("r" + std::to_string(i));
    }
    REQUIRE(store.add_file(file("file-" + id), content));
    BatchRecord record = batch("batch_" + id, "file-" + id);
    REQUIRE(store.add_batch(record));
    const auto input = gateway::read_batch_input(content, kChat, 1000);
    record.status = BatchStatus::in_progress;
    record.total = input.lines.size();
    REQUIRE(store.update(record, input.lines));
    return record;
}

}  // namespace

TEST_CASE("a form with a file is read, whatever the file holds", "[gateway][batch]") {
    const std::string type = "multipart/form-data; boundary=\"a b\"";
    const std::string body =
        "ignored\r\n--a b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--a b\r\n"
        "content-disposition: form-data; name=file; filename=\"a \\\"x\\\".jsonl\"\r\nContent-Type: text/plain\r\n\r\n"
        "one\r\n--a\r\n--a bb\r\n--a b\r\nContent-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--a b--\r\ntail";
    const auto parts = gateway::read_form(type, body);
    REQUIRE(parts.has_value());
    REQUIRE(parts->size() == 3u);
    REQUIRE((*parts)[0].name == "purpose");
    REQUIRE((*parts)[0].bytes == "batch");
    REQUIRE((*parts)[1].name == "file");
    REQUIRE((*parts)[1].filename == "a \"x\".jsonl");
    REQUIRE((*parts)[1].bytes == "one\r\n--a\r\n--a bb");  // not quite the boundary
    REQUIRE((*parts)[2].name == "empty");
    REQUIRE((*parts)[2].bytes.empty());
    for (std::size_t cut = 0; cut < body.find("--a b--") + 7; ++cut) {  // the last boundary ends it
        CAPTURE(cut);
        CHECK_FALSE(gateway::read_form(type, std::string_view(body).substr(0, cut)).has_value());
    }
    for (const char* other : {"application/json", "multipart/form-data", "multipart/form-data; boundary=",
                              "multipart/form-data; boundary=\"x", "multipart/mixed; boundary=x"}) {
        CHECK(gateway::read_form(other, body).error().status == 415u);
    }
    std::string many;
    for (int i = 0; i < 40; ++i) {
        many += "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n";
    }
    CHECK(gateway::read_form("multipart/form-data; boundary=x", many + "--x--").error().message.find("too many") !=
          std::string::npos);
}

TEST_CASE("what is wrong with a batch's input is told by line", "[gateway][batch]") {
    const auto good = gateway::read_batch_input(line("a") + "\n  \n" + line("b"), kChat, 10);
    REQUIRE(good.problems.empty());
    REQUIRE(good.lines.size() == 2u);
    REQUIRE(good.lines[1].number == 4);
    REQUIRE(gateway::body_of_line(line("a", R"(,"n":2)")) == R"({"model":"m","n":2})");

    const std::string bad = line("a") + line("a") + "{\n" +
                            R"({"custom_id":"c","method":"GET","url":"/v1/chat/completions","body":{}})" + "\n" +
                            R"({"custom_id":"d","method":"POST","url":"/v1/embeddings","body":{}})" + "\n" +
                            R"({"custom_id":"e","method":"POST","url":"/v1/chat/completions"})" + "\n" +
                            line("f", R"(,"stream":true)") + line("g", R"(,"slo":{"ttft_ms":5})") + line("");
    const auto told = gateway::read_batch_input(bad, kChat, 10);
    REQUIRE(told.lines.empty());
    std::vector<std::pair<std::int64_t, std::string>> codes;
    for (const auto& one : told.problems) {
        codes.emplace_back(one.line, one.code);
    }
    REQUIRE(codes == std::vector<std::pair<std::int64_t, std::string>>{{2, "duplicate_custom_id"},
                                                                       {3, "invalid_json_line"},
                                                                       {4, "invalid_method"},
                                                                       {5, "mismatched_url"},
                                                                       {6, "missing_required_parameter"},
                                                                       {7, "unsupported_parameter"},
                                                                       {8, "unsupported_parameter"},
                                                                       {9, "missing_required_parameter"}});
    REQUIRE(gateway::read_batch_input("\n\n", kChat, 10).problems.at(0).code == "empty_file");
    REQUIRE(gateway::read_batch_input(line("a") + line("b"), kChat, 1).problems.at(0).code == "too_many_tasks");
    std::string endless;
    for (int i = 0; i < 1000; ++i) {
        endless += "{\n";
    }
    REQUIRE(gateway::read_batch_input(endless, kChat, 10).problems.size() == gateway::kBatchProblemsMax);
}

TEST_CASE("a batch is asked for in OpenAI's form", "[gateway][batch]") {
    const auto form = gateway::read_batch_form(
        R"({"input_file_id":"file-1","endpoint":"/v1/chat/completions","completion_window":"2d","metadata":{"a":"b"}})");
    REQUIRE(form.has_value());
    REQUIRE(form->window_s == 48 * 3600);
    REQUIRE(form->metadata == R"({"a":"b"})");
    const auto param = [](const std::string& body) {
        return gateway::read_batch_form(body).error().param.value_or("");
    };
    REQUIRE(param(R"({"endpoint":"/v1/chat/completions"})") == "input_file_id");
    REQUIRE(param(R"({"input_file_id":"f","endpoint":"/v1/messages"})") == "endpoint");
    for (const char* window : {"0h", "24", "h", "169h", "8d", "-1h", "1m", "24h "}) {
        CHECK(param(R"({"input_file_id":"f","endpoint":"/v1/responses","completion_window":")" + std::string(window) +
                    "\"}") == "completion_window");
    }
    REQUIRE(param(R"({"input_file_id":"f","endpoint":"/v1/responses","metadata":{"a":1}})") == "metadata");
}

TEST_CASE("batches take all room while nobody asks, and beside others what their targets bear", "[gateway][batch]") {
    gateway::BatchPace pace(8);
    base::TimePoint now{};
    now += 1h;
    REQUIRE(pace.allowed(0, 0, now) == 8u);
    REQUIRE(pace.allowed(3, 0, now) == 1u);
    REQUIRE(pace.allowed(3, 1, now + 10s) == 1u);  // nothing was seen of their targets
    for (int second = 0; second < 20; ++second) {
        now += 1s;
        pace.ended(true, now);
        (void)pace.allowed(3, pace.allowed(3, 0, now), now);
    }
    REQUIRE(pace.allowed(3, 8, now) == 8u);
    pace.ended(false, now);
    REQUIRE(pace.allowed(3, 8, now) == 4u);
    pace.ended(false, now);
    pace.ended(false, now);
    pace.ended(false, now);
    REQUIRE(pace.allowed(3, 0, now) == 0u);
    REQUIRE(pace.allowed(3, 0, now + 1s) == 0u);
    REQUIRE(pace.allowed(3, 0, now + 2s) == 1u);  // one is tried again
    REQUIRE(pace.allowed(0, 0, now + 2s) == 8u);
    pace.refused(now + 30s);
    REQUIRE(pace.allowed(0, 0, now + 29s) == 0u);
    REQUIRE(pace.allowed(0, 0, now + 30s) == 8u);
}

TEST_CASE("the store keeps files apart by tenant and within its bounds", "[gateway][batch]") {
    const Folder folder;
    const auto store = open(folder, {1 << 20, 3, 2});
    REQUIRE(store->add_file(file("file-1", "a", 1), "one"));
    REQUIRE(store->add_file(file("file-2", "a", 2), "two"));
    REQUIRE(store->add_file(file("file-3", "b", 3), std::string("th\0ree", 6)));
    REQUIRE(store->add_file(file("file-4", "b"), "x").error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(store->content("a", "file-3").value() == std::nullopt);
    REQUIRE(store->content("b", "file-3").value() == std::string("th\0ree", 6));
    REQUIRE(store->files("a", "", "", 10)->size() == 2u);
    REQUIRE(store->files("a", "", "", 10)->front().id == "file-2");
    REQUIRE(store->files("a", "", "file-2", 10)->front().id == "file-1");
    REQUIRE(store->files("a", "other", "", 10)->empty());
    REQUIRE_FALSE(store->remove_file("a", "file-3").value());
    REQUIRE(store->remove_file("b", "file-3").value());
    REQUIRE(store->add_file(file("file-5", "b"), std::string(2 << 20, 'x')).error().code ==
            base::ErrorCode::resource_exhausted);
    REQUIRE(store->add_batch(batch("batch_1", "file-1", "a")));
    REQUIRE(store->add_batch(batch("batch_2", "file-1", "a")));
    REQUIRE(store->add_batch(batch("batch_3", "file-1", "a")).error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(store->add_batch(batch("batch_4", "file-1", "b")));
    REQUIRE(store->remove_file("a", "file-1").error().code == base::ErrorCode::failed_precondition);
    REQUIRE_FALSE(store->batch("b", "batch_1").value().has_value());
    REQUIRE(store->batches("a", "batch_2", 10)->size() == 1u);
}

TEST_CASE("outcomes count once, and make the files of a batch that is over", "[gateway][batch]") {
    const Folder folder;
    const auto store = open(folder);
    BatchRecord record = begin(*store, "1", 5);
    REQUIRE(store->next(record.id, 0, 2)->size() == 2u);
    REQUIRE(store->next(record.id, 0, 2)->at(1).custom_id == "r1");
    REQUIRE(gateway::body_of_line(store->next(record.id, 3, 9)->at(0).line) == R"({"model":"m"})");
    REQUIRE(store->add_outcomes(
        record.id, {{.number = 1, .is_error = false, .line = "A"}, {.number = 3, .is_error = true, .line = "C"}}));
    REQUIRE(store->add_outcomes(record.id, {{.number = 1, .is_error = false, .line = "again"}}));
    REQUIRE(store->batch("t", record.id).value()->completed == 1u);
    REQUIRE(store->next(record.id, 0, 9)->size() == 3u);
    record.status = BatchStatus::expired;
    record.ended_at = 77;
    record.output_file = "file-out";
    record.error_file = "file-err";
    const auto finished = store->finish(record);
    REQUIRE(finished.has_value());
    REQUIRE(finished->completed == 1u);
    REQUIRE(finished->failed == 4u);
    REQUIRE(store->content("t", "file-out").value() == "A\n");
    REQUIRE(store->file("t", "file-out").value()->bytes == 2u);
    const std::string errors = store->content("t", "file-err").value().value();
    REQUIRE(std::count(errors.begin(), errors.end(), '\n') == 4);
    REQUIRE(errors.find("batch_expired") != std::string::npos);
    REQUIRE(store->unfinished()->empty());
    REQUIRE(store->remove_file("t", "file-out").value());
    REQUIRE(store->content("t", "file-err").value() == errors);
}

TEST_CASE("a content comes in pieces, too", "[gateway][batch]") {
    const Folder folder;
    const auto store = open(folder);
    const auto pieces = [&](const std::string& tenant, const std::string& id, std::size_t bytes) {
        std::vector<std::string> all;
        BatchStore::ContentPlace place;
        while (true) {
            const auto piece = store->content_piece(tenant, id, place, bytes);
            REQUIRE(piece.has_value());
            if (!*piece || (*piece)->empty()) { return all; }
            all.push_back(std::move(**piece));
        }
    };
    REQUIRE(store->add_file(file("file-a"), std::string("0123456\0\x89", 9)));
    REQUIRE(pieces("t", "file-a", 4) == std::vector<std::string>{"0123", std::string("456\0", 4), "\x89"});
    REQUIRE(pieces("t", "file-a", 9).size() == 1u);
    REQUIRE(pieces("other", "file-a", 4).empty());
    REQUIRE(store->add_file(file("file-empty"), ""));
    REQUIRE(pieces("t", "file-empty", 4).empty());

    BatchRecord record = begin(*store, "1", 6);
    std::vector<BatchOutcome> outcomes;
    for (std::int64_t number = 1; number <= 6; ++number) {
        outcomes.push_back(
            {.number = number, .is_error = number == 4, .line = std::string(5, static_cast<char>('0' + number))});
    }
    REQUIRE(store->add_outcomes(record.id, outcomes));
    record.status = BatchStatus::completed;
    record.output_file = "file-out";
    record.error_file = "file-err";
    REQUIRE(store->finish(record).has_value());
    // Whole lines, as many as begin within the bytes.
    REQUIRE(pieces("t", "file-out", 7) == std::vector<std::string>{"11111\n22222\n", "33333\n55555\n", "66666\n"});
    REQUIRE(pieces("t", "file-out", 1).size() == 5u);
    REQUIRE(pieces("t", "file-err", 100) == std::vector<std::string>{"44444\n"});

    BatchStore::ContentPlace place;
    REQUIRE(store->content_piece("t", "file-out", place, 7).value() == "11111\n22222\n");
    REQUIRE(store->remove_file("t", "file-out").value());
    REQUIRE(store->content_piece("t", "file-out", place, 7).value() == std::nullopt);
}

TEST_CASE("a killed writer leaves whole outcomes only", "[gateway][batch]") {
    const Folder folder;
    BatchRecord record;
    {
        const auto store = open(folder);
        record = begin(*store, "1", 200);
    }
    for (int round = 0; round < 3; ++round) {
        int pipes[2];
        REQUIRE(pipe(pipes) == 0);
        const pid_t child = fork();
        if (child == 0) {
            auto store = BatchStore::open(folder.file(), {1 << 24, 100, 10});
            for (int number = 1 + 60 * round; store && number <= 200; ++number) {
                const auto added = (*store)->add_outcomes(
                    record.id, {{.number = number, .is_error = false, .line = std::string(1000, 'x') + "."}});
                if (!added || write(pipes[1], "x", 1) != 1) { break; }
            }
            while (true) {
                pause();
            }
        }
        REQUIRE(child > 0);
        char byte = 0;
        for (int seen = 0; seen < 20; ++seen) {
            REQUIRE(read(pipes[0], &byte, 1) == 1);
        }
        REQUIRE(kill(child, SIGKILL) == 0);
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        close(pipes[0]);
        close(pipes[1]);
        const auto store = open(folder);
        const auto now = store->batch("t", record.id).value().value();
        const std::size_t waiting = store->next(record.id, 0, 1000)->size();
        REQUIRE(now.completed >= 20u);
        REQUIRE(now.completed + waiting == 200u);
    }
}

namespace {

/// A runner over a real store, with work of both threads run by hand and requests that the test answers.
struct World {
    explicit World(const Folder& folder, gateway::BatchOptions given = {})
        : options(std::move(given)), store(open(folder)) {
        runner = std::make_unique<gateway::BatchRunner>(gateway::BatchRunner::Setup{
            .options = options,
            .store = *store,
            .post = [this](std::function<void()> work) { posted.push_back(std::move(work)); },
            .post_disk = [this](std::function<void()> work) { disk.push_back(std::move(work)); },
            .submit =
                [this](gateway::Endpoint, gateway::HttpRequest request,
                       const std::shared_ptr<gateway::Exchange>& exchange, gateway::RequestTag tag) {
                    CHECK(tag.is_batch);
                    sent.emplace_back(std::move(request), exchange);
                    exchange->on_gone([this](std::string_view) { ++gone; });
                },
            .key = [this](const std::string&) { return key; },
            .in_flight = [this] { return sent.size() + others; },
            .random_id = [this](std::string_view prefix) { return std::string(prefix) + std::to_string(++ids); },
            .tenant_header = "",
            .clock = clock,
            .metrics = metrics,
            .wake = [](base::TimePoint) {}});
    }

    void run() {
        for (int rounds = 0; rounds < 20; ++rounds) {
            (void)runner->tick(clock.now());
            while (!disk.empty() || !posted.empty()) {
                auto& queue = disk.empty() ? posted : disk;
                const auto work = std::move(queue.front());
                queue.pop_front();
                work();
            }
        }
    }
    void answer(unsigned status = 200, gateway::HttpFields fields = {}) {
        const auto [request, exchange] = std::move(sent.front());
        sent.pop_front();
        exchange->respond({.status = status, .fields = std::move(fields), .body = R"({"ok":1})"});
    }
    BatchStatus status(const std::string& id) { return store->batch("t", id).value()->status; }

    gateway::BatchOptions options;
    base::FakeClock clock;
    base::Metrics metrics;
    std::unique_ptr<BatchStore> store;
    std::shared_ptr<const gateway::ApiKey> key;
    std::deque<std::function<void()>> posted;
    std::deque<std::function<void()>> disk;
    std::deque<std::pair<gateway::HttpRequest, std::shared_ptr<gateway::Exchange>>> sent;
    std::size_t others = 0;
    int gone = 0;
    int ids = 0;
    std::unique_ptr<gateway::BatchRunner> runner;
};

/// With its file, not read yet.
BatchRecord fresh(BatchStore& store, const std::string& id, const std::string& content) {
    REQUIRE(store.add_file(file("file-" + id), content));
    BatchRecord record = batch("batch_" + id, "file-" + id);
    REQUIRE(store.add_batch(record));
    return record;
}

std::string lines(int count) {
    std::string content;
    for (int i = 0; i < count; ++i) {
        content += line("r" + std::to_string(i));
    }
    return content;
}

}  // namespace

TEST_CASE("every request is sent, in turns between batches, and answered once", "[gateway][batch]") {
    const Folder folder;
    gateway::BatchOptions options;
    options.requests_at_once = 4;
    World world(folder, options);
    for (const char* id : {"1", "2"}) {
        world.runner->add(fresh(*world.store, id, lines(20)));
    }
    world.run();
    REQUIRE(world.sent.size() == 4u);
    std::size_t answered = 0;
    while (!world.sent.empty()) {
        REQUIRE(world.sent.front().first.body == R"({"model":"m"})");
        // Refused for want of room: sent again later. Wrong: told.
        if (++answered % 7 == 0) {
            world.answer(429, {{"Retry-After", "3"}});
        } else {
            world.answer(answered % 5 == 0 ? 400 : 200);
        }
        world.clock.advance(3s);
        world.run();
        REQUIRE(world.sent.size() <= 4u);
    }
    for (const char* id : {"batch_1", "batch_2"}) {
        const auto record = world.store->batch("t", id).value().value();
        REQUIRE(record.status == BatchStatus::completed);
        REQUIRE(record.total == 20u);
        REQUIRE(record.completed + record.failed == 20u);
        REQUIRE(record.failed > 0u);
        std::set<std::string> custom;
        for (const std::string& of : {record.output_file, record.error_file}) {
            std::istringstream content(world.store->content("t", of).value().value());
            for (std::string text; std::getline(content, text);) {
                const json::value one = json::parse(text);
                REQUIRE(custom.insert(one.at("custom_id").as_string().c_str()).second);
                REQUIRE(one.at("response").at("body").at("ok") == 1);
            }
        }
        REQUIRE(custom.size() == 20u);
    }
}

TEST_CASE("a batch goes on in the next life, and nothing that was answered is sent again", "[gateway][batch]") {
    const Folder folder;
    std::set<std::string> first;
    {
        World world(folder);
        world.runner->add(fresh(*world.store, "1", lines(30)));
        world.run();
        for (int i = 0; i < 11; ++i) {
            world.answer();
            world.run();
        }
        world.sent.clear();  // the process is gone
        REQUIRE(world.store->batch("t", "batch_1").value()->completed == 11u);
    }
    World world(folder);
    const auto unfinished = world.store->unfinished();
    REQUIRE(unfinished->size() == 1u);
    world.runner->add(unfinished->front());
    world.run();
    int sent = 0;
    while (!world.sent.empty()) {
        ++sent;
        world.answer();
        world.run();
    }
    REQUIRE(sent == 19);
    REQUIRE(world.status("batch_1") == BatchStatus::completed);
    REQUIRE(world.store->batch("t", "batch_1").value()->completed == 30u);
}

TEST_CASE("a batch is cancelled, expires, fails by its input or by its key", "[gateway][batch]") {
    const Folder folder;
    World world(folder);
    world.runner->add(fresh(*world.store, "1", lines(30)));
    world.run();
    world.answer();
    world.run();
    const std::size_t in_work = world.sent.size();
    REQUIRE(world.runner->cancel("batch_1"));
    REQUIRE(world.gone == static_cast<int>(in_work));
    REQUIRE(world.runner->find("batch_1")->status == BatchStatus::cancelling);
    world.sent.clear();
    world.run();
    REQUIRE(world.status("batch_1") == BatchStatus::cancelled);
    REQUIRE(world.store->batch("t", "batch_1").value()->completed == 1u);
    REQUIRE_FALSE(world.runner->cancel("batch_1"));

    BatchRecord late = fresh(*world.store, "2", lines(3));
    late.expires_at = world.clock.unix_us() / 1'000'000 + 60;
    world.runner->add(late);
    world.run();
    world.answer();
    world.run();
    world.clock.advance(61s);
    world.run();
    REQUIRE(world.status("batch_2") == BatchStatus::expired);
    REQUIRE(world.store->batch("t", "batch_2").value()->failed == 2u);
    world.sent.clear();

    world.runner->add(fresh(*world.store, "3", lines(2) + "{\n"));
    world.run();
    REQUIRE(world.status("batch_3") == BatchStatus::failed);
    REQUIRE(world.store->batch("t", "batch_3").value()->problems.at(0).line == 3);
    REQUIRE(world.sent.empty());

    BatchRecord of_a_key = fresh(*world.store, "4", lines(2));
    of_a_key.key_id = "gone";
    world.runner->add(of_a_key);
    world.run();
    REQUIRE(world.status("batch_4") == BatchStatus::failed);
    REQUIRE(world.store->batch("t", "batch_4").value()->problems.at(0).code == "key_gone");
    REQUIRE(world.sent.empty());
}

TEST_CASE("a store that cannot be written stops batches until it can, and loses no outcome", "[gateway][batch]") {
    const Folder folder;
    gateway::BatchOptions options;
    options.requests_at_once = 2;
    World world(folder, options);
    world.runner->add(fresh(*world.store, "1", lines(6)));
    world.run();
    REQUIRE(world.sent.size() == 2u);
    sqlite3* other = nullptr;  // somebody who holds the file, as a full disk would
    REQUIRE(sqlite3_open(folder.file().c_str(), &other) == SQLITE_OK);
    REQUIRE(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr) == SQLITE_OK);
    world.answer();
    world.run();
    REQUIRE(world.sent.size() == 1u);  // no other one is sent
    REQUIRE(world.metrics.text().find("sluice_gateway_batch_store_failures_total 1") != std::string::npos);
    REQUIRE(world.store->batch("t", "batch_1").value()->completed == 0u);
    REQUIRE(sqlite3_exec(other, "ROLLBACK", nullptr, nullptr, nullptr) == SQLITE_OK);
    REQUIRE(sqlite3_close(other) == SQLITE_OK);
    world.clock.advance(6s);
    world.run();
    REQUIRE(world.store->batch("t", "batch_1").value()->completed == 1u);
    while (!world.sent.empty()) {
        world.answer();
        world.run();
    }
    REQUIRE(world.status("batch_1") == BatchStatus::completed);
    REQUIRE(world.store->batch("t", "batch_1").value()->completed == 6u);
}
