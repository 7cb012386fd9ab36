#include <algorithm>
#include <chrono>
#include <memory>

#include "tests/gateway/support.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
using gateway::EndReason;

/// A small cluster whose every delivery is one move, chosen at random: answers of the scheduler, steps, outputs (per
/// worker in order, as streams are), losses and restarts of workers, errors, time, clients that go.
class Chaos final : public gateway::SchedulerPort, public gateway::WorkerPort {
public:
    explicit Chaos(std::uint32_t seed) : random(seed) {
        for (std::uint64_t number = 1; number <= 4; ++number) {
            add_worker(number);
        }
    }

    void place(const proto::PlaceRequest& request, base::Duration) override { asked.push_back(request); }
    void release(const proto::ReleaseRequest::Ended& ended) override {
        if (ended.phase() == proto::ReleaseRequest::Ended::PHASE_ALL) {
            placed.erase({ended.request_id(), ended.epoch()});
        }
    }
    void drop_prefixes(base::Duration, std::function<void(const Dropped&)>) override {}
    void send(const std::string&, const proto::WorkerEndpoint& to, proto::WorkerCommand command) override {
        for (auto& worker : workers) {
            if (worker->endpoint().incarnation() == to.incarnation()) {
                worker->take(command);
                return;
            }
        }
        if (command.has_start()) { lost.push_back(base::Incarnation{to.incarnation()}); }  // nobody there: told later
    }

    void add_worker(std::uint64_t number) {
        workers.push_back(
            std::make_unique<FakeWorker>(make_endpoint(number, ++incarnations * 100 + number), FakeModel{}));
    }
    FakeWorker& any_worker() { return *workers[random() % workers.size()]; }

    void answer_one(gateway::RequestTable& table) {
        if (asked.empty()) { return; }
        const std::size_t at = random() % asked.size();  // answers overtake each other
        const proto::PlaceRequest request = asked[at];
        asked.erase(asked.begin() + static_cast<std::ptrdiff_t>(at));
        const base::RequestId id{request.request_id()};
        const base::Epoch epoch{request.epoch()};
        switch (random() % 8) {
            case 0:
                table.on_place_answered(id, epoch, refusal(base::ErrorCode::unavailable, 50));
                return;
            case 1:
                table.on_place_answered(id, epoch,
                                        tl::unexpected<base::Error>({base::ErrorCode::deadline_exceeded, "late"}));
                return;
            default: {
                FakeWorker& decode = any_worker();
                FakeWorker& prefill = any_worker();
                placed.insert({request.request_id(), request.epoch()});
                const auto reply = &prefill == &decode ? local_placement(decode.endpoint())
                                                       : split_placement(prefill.endpoint(), decode.endpoint());
                table.on_place_answered(id, epoch, reply);
                if (random() % 4 == 0) { table.on_place_answered(id, epoch, reply); }  // twice
            }
        }
    }

    void deliver_one(gateway::RequestTable& table) {
        FakeWorker& worker = any_worker();
        if (worker.outputs().empty()) { return; }
        const auto output = worker.outputs().front();
        worker.outputs().pop_front();
        table.on_output(worker.incarnation(), output);
        const bool is_final = output.finish() != proto::SequenceOutput::FINISH_NONE;
        if (is_final && random() % 3 == 0) { table.on_output(worker.incarnation(), output); }  // twice
    }

    void kill_one(gateway::RequestTable& table) {
        const std::size_t at = random() % workers.size();
        const auto dead = std::move(workers[at]);
        workers.erase(workers.begin() + static_cast<std::ptrdiff_t>(at));
        for (std::size_t more = random() % (dead->outputs().size() + 1); more > 0; --more) {  // some was on its way
            table.on_output(dead->incarnation(), dead->outputs().front());
            dead->outputs().pop_front();
        }
        lost.push_back(dead->incarnation());
        add_worker(dead->endpoint().worker_id());
    }

    void tell_loss(gateway::RequestTable& table) {
        if (lost.empty()) { return; }
        const auto worker = lost.back();
        lost.pop_back();
        table.on_worker_lost(worker, {base::ErrorCode::unavailable, "lost"});
        if (random() % 3 == 0) { table.on_worker_lost(worker, {base::ErrorCode::unavailable, "lost"}); }
    }

    std::mt19937 random;
    std::vector<std::unique_ptr<FakeWorker>> workers;
    std::vector<proto::PlaceRequest> asked;
    std::vector<base::Incarnation> lost;
    std::set<std::pair<std::uint64_t, std::uint32_t>> placed;  // placements not released
    std::uint64_t incarnations = 0;
};

struct Client {
    gateway::GenerationRequest request;
    RecordingSink sink;
    base::RequestId id{};
    bool gone = false;
};

/// The text and tokens of a run without any fault.
std::pair<std::string, Tokens> expected_text(const gateway::GenerationRequest& request, const ByteText& text) {
    gateway::TextStream stream(text.detokenizer(true), request.text);
    std::string shown;
    Tokens tokens;
    const auto add = [&](const gateway::Piece& piece) {
        shown += piece.text;
        for (const auto& record : piece.tokens) {
            tokens.push_back(record.token);
        }
    };
    for (const base::TokenId token : FakeModel{}.run(request)) {
        if (token == kEos) { break; }
        add(stream.push({.token = token, .logprob = 0, .top = {}}));
        if (stream.stopped()) { break; }
    }
    add(stream.finish());
    return {shown, tokens};
}

}  // namespace

TEST_CASE("every request gets one final answer and the text of a faultless run, whatever happens",
          "[gateway][request][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(150)));
    CAPTURE(seed);
    Chaos chaos(seed);
    std::mt19937 random(seed + 1000);
    base::Metrics metrics;
    const gateway::Models models = make_models({"m"});
    gateway::GatewayMetrics rows(metrics, models.own_names());
    base::FakeClock clock;
    ByteText text;
    gateway::RequestTable table({.scheduler = chaos,
                                 .workers = chaos,
                                 .models = models,
                                 .clock = clock,
                                 .metrics = rows,
                                 .options = {.placements_max = 50, .place_wait_max = 60s, .replace_wait_max = 60s},
                                 .hash_key = {},
                                 .seed = seed});
    table.on_cluster(description());

    std::vector<std::unique_ptr<Client>> clients;
    for (int number = 0; number < 12; ++number) {
        auto client = std::make_unique<Client>();
        gateway::GenerationRequest& request = client->request;
        request.prompt = std::make_shared<const Tokens>(*text.encode("prompt " + std::to_string(number), true, false));
        request.sampling.set_seed(random());
        request.sampling.set_choice(static_cast<std::uint32_t>(number % 3));
        request.stop_tokens = {kEos};
        request.new_tokens_max = static_cast<std::uint32_t>(1 + random() % 60);
        if (random() % 2 == 0) { request.text.stop_strings = {"ab", "fa\xc3\xa9", "ccc"}; }
        if (random() % 6 == 0) { request.deadline = clock.now() + std::chrono::milliseconds(random() % 4000); }
        client->id = table.open(request, client->sink);
        clients.push_back(std::move(client));
    }

    bool faults = true;
    for (int move = 0; table.open_count() > 0; ++move) {
        REQUIRE(move < 200000);
        if (move > 3000) { faults = false; }  // from here on everything goes well: all must end
        switch (random() % (faults ? 40 : 30)) {
            case 0:
            case 1:
            case 2:
                chaos.answer_one(table);
                break;
            case 3:
            case 4:
            case 5:
            case 6:
                clock.advance(std::chrono::milliseconds(random() % 20));
                table.on_time();
                break;
            case 7:
            case 8:
                chaos.tell_loss(table);
                break;
            case 30:
                chaos.kill_one(table);
                break;
            case 31: {
                const base::ErrorCode codes[] = {base::ErrorCode::unavailable, base::ErrorCode::data_loss,
                                                 base::ErrorCode::aborted, base::ErrorCode::resource_exhausted};
                chaos.any_worker().fail_one(random(), codes[random() % 4]);
                break;
            }
            case 32:
                if (random() % 20 == 0) {
                    Client& client = *clients[random() % clients.size()];
                    client.gone = true;
                    table.cancel(client.id, "client_gone");
                }
                break;
            default:
                if (random() % 2 == 0) {
                    chaos.any_worker().step();
                } else {
                    chaos.deliver_one(table);
                }
        }
    }
    REQUIRE(table.opened() == clients.size());
    REQUIRE(table.ended() == clients.size());
    for (const auto& client : clients) {
        const auto [expected, tokens] = expected_text(client->request, text);
        CAPTURE(client->sink.text, expected);
        REQUIRE(client->sink.ends == 1);
        switch (client->sink.end.reason) {
            case EndReason::cancelled:
                REQUIRE(client->gone);
                REQUIRE(expected.starts_with(client->sink.text));
                break;
            case EndReason::failed:
                REQUIRE(expected.starts_with(client->sink.text));
                if (client->sink.end.error->code != base::ErrorCode::deadline_exceeded) {
                    REQUIRE(client->sink.placed == 0);  // refused at the door
                }
                break;
            default:
                REQUIRE(client->sink.text == expected);
                REQUIRE(client->sink.tokens == tokens);
        }
    }
    // Nothing is left behind: every placement was given back, no live worker still has work.
    while (!chaos.asked.empty()) {
        chaos.answer_one(table);
    }
    REQUIRE(chaos.placed.empty());
    for (const auto& worker : chaos.workers) {
        REQUIRE(worker->sequences() == 0u);
    }
}
