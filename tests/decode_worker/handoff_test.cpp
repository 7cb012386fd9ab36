// Prefill and decode workers in one process: two step loops, each on its own thread, over in-process transports with
// and without faults. The engine keeps books (tests/support/ledger_engine.h), so wrong KV shows as wrong tokens.
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"
#include "kv_transfer/router.h"
#include "net/fault.h"
#include "net/in_process.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/forcing_grammars.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"
#include "tests/support/test_worker.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::kPatience;
using test_support::KvPlane;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::Random;
using test_support::random_prompt;
using test_support::TestWorker;
using worker::Finish;
using worker::GatewayId;
using worker::Part;
using worker::RequestKey;

namespace {

/// Faults are the point of these tests: their log lines would hide a failure.
const bool kIsQuiet = [] {
    base::init_log({.role = "test", .level = "off"});
    return true;
}();

constexpr GatewayId kGateway{1};

/// Drops the lowest byte of each element, which is 0 in what LedgerEngine writes: says that it is lossy, and is not, so
/// that tokens can be compared.
class SaysLossyCodec final : public kv_transfer::Codec {
public:
    std::string_view name() const override { return "test"; }
    bool has_level(std::uint32_t level) const override { return level == 0; }
    bool is_lossy(std::uint32_t) const override { return true; }
    std::size_t bound(std::size_t raw_bytes) const override { return raw_bytes; }
    base::Result<std::size_t> encode(const kv_cache::KvLayout&, const kv_cache::KvRange&, std::uint32_t,
                                     std::span<const std::byte> raw, std::span<std::byte> out) const override {
        std::size_t written = 0;
        for (std::size_t i = 0; i < raw.size(); ++i) {
            if (i % 4 != 0) { out[written++] = raw[i]; }
        }
        return written;
    }
    base::Result<void> decode(const kv_cache::KvLayout&, const kv_cache::KvRange&, std::uint32_t,
                              std::span<const std::byte> payload, std::span<std::byte> out) const override {
        if (payload.size() * 4 != out.size() * 3) { return base::fail(base::ErrorCode::data_loss, "length"); }
        std::size_t read = 0;
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = i % 4 != 0 ? payload[read++] : std::byte{0};
        }
        return {};
    }
};

/// 1P1D, and the part of a gateway that passes the first token on.
struct Pair {
    explicit Pair(worker::WorkerOptions limits = {}, LedgerEngine::Options engine_options = {},
                  const KvPlane& plane = {}, engine::Grammars* grammars = nullptr)
        : prefill(*network, "prefill", 11, limits, engine_options, plane, grammars),
          decode(*network, "decode", 22, limits, engine_options, plane, grammars) {
        prefill.mailbox.on_tokens = [this](RequestKey key, const std::vector<TokenId>& tokens) {
            const std::scoped_lock lock(start_mutex);
            // On the step thread, where Catch must not assert: a lost Continue shows as a missing final answer.
            (void)decode.loop.post_command(worker::ContinueRequest{key, kGateway, tokens});
        };
        prefill.run();
        decode.run();
    }
    ~Pair() {
        prefill.stop();
        decode.stop();
    }
    void start(std::uint64_t request, const std::vector<TokenId>& prompt, std::uint32_t new_tokens,
               bool decode_first = true) {
        const std::scoped_lock lock(start_mutex);
        worker::StartRequest start;
        start.key = {RequestId{request}, Epoch{0}};
        start.gateway = kGateway;
        start.prompt = prompt;
        start.stop.new_tokens_max = new_tokens;
        start.kv_mode = kv_mode;
        if (keeps_to_grammar) { start.grammar = test_support::ForcingGrammars::of(prompt); }
        worker::StartRequest on_decode = start;
        start.part = Part::prefill;
        start.peer = decode.as_peer();
        on_decode.part = Part::decode;
        on_decode.peer = prefill.as_peer();
        if (decode_first) { REQUIRE(decode.loop.post_command(on_decode)); }
        REQUIRE(prefill.loop.post_command(start));
        if (!decode_first) { REQUIRE(decode.loop.post_command(on_decode)); }
    }
    std::vector<TokenId> tokens(std::uint64_t request) {
        const RequestKey key{RequestId{request}, Epoch{0}};
        std::vector<TokenId> all = prefill.mailbox.answer(key).tokens;
        const auto rest = decode.mailbox.answer(key).tokens;
        all.insert(all.end(), rest.begin(), rest.end());
        return all;
    }

    proto::KvMode kv_mode;  // of the placements
    bool keeps_to_grammar = false;
    std::mutex start_mutex;  // a gateway sends Continue after both starts, in order; so must we
    std::shared_ptr<net::InProcessNetwork> network = net::InProcessNetwork::make();
    TestWorker prefill;
    TestWorker decode;
};

}  // namespace

TEST_CASE("over a slow wire decode computes the first tokens itself, and all tokens are as ever", "[decode_worker]") {
    KvPlane plane;
    plane.faults = *net::parse_fault_plan("seed=3;delay:kind=3,ms=50,probability=1");  // frames
    Pair pair({}, {.blocks_total = 400}, plane);
    Random random{9};
    const auto computes_some = [&pair] {
        const std::string text = pair.decode.metrics.text();
        const std::string name = "\nsluice_kv_front_tokens_total ";
        const auto at = text.find(name);
        return at != std::string::npos && std::stod(text.substr(at + name.size())) > 0;
    };
    // The wire has to be known, and what steps take.
    for (std::uint64_t request = 1; request <= 200 && !computes_some(); ++request) {
        const auto prompt = random_prompt(random, 500 + random() % 100);
        pair.start(request, prompt, 5);
        const RequestKey key{RequestId{request}, Epoch{0}};
        REQUIRE(pair.decode.mailbox.wait_for_final(key));
        REQUIRE(pair.tokens(request) == ledger_continuation(prompt, 5, 1000));
        REQUIRE(pair.decode.mailbox.answer(key).kv_path == "pushed");
    }
    REQUIRE(computes_some());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("a split request gives the tokens of an undivided one, from pushed KV", "[decode_worker]") {
    Random random{1};
    Pair pair;
    const auto prompt = random_prompt(random, 100);
    const bool decode_first = GENERATE(true, false);
    pair.start(1, prompt, 20, decode_first);
    const RequestKey key{RequestId{1}, Epoch{0}};
    REQUIRE(pair.decode.mailbox.wait_for_final(key));
    REQUIRE(pair.tokens(1) == ledger_continuation(prompt, 20, 1000));
    REQUIRE(pair.decode.mailbox.answer(key).kv_path == "pushed");
    REQUIRE(pair.prefill.mailbox.wait_for_final(key));
    REQUIRE(pair.prefill.mailbox.answer(key).finish == Finish::handed_over);
    REQUIRE(pair.decode.engine.tokens_computed() == 19);  // decode computed no prompt token
    REQUIRE(pair.prefill.wait_idle());
    REQUIRE(pair.decode.wait_idle());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("what a grammar forces behind the first token goes with it, and decode computes it, from KV that came or not",
          "[decode_worker]") {
    const bool arrives = GENERATE(true, false);
    KvPlane plane;
    if (!arrives) { plane.faults = *net::parse_fault_plan("seed=1;drop:kind=3,probability=1"); }  // frames
    worker::WorkerOptions limits;
    if (arrives) {
        limits.kv_wait = limits.kv_lease = limits.room_pending = kPatience * 10;
    } else {
        limits.kv_wait = std::chrono::milliseconds(50);
        limits.handoff_timeout = std::chrono::milliseconds(500);
    }
    limits.forced_tokens_max = 32;
    test_support::ForcingGrammars grammars;
    Pair pair(limits, {}, plane, &grammars);
    pair.keeps_to_grammar = true;
    Random random{5};
    const auto prompt = random_prompt(random, 100);
    const auto answer = test_support::ForcingGrammars::answer(prompt, 60);
    REQUIRE(answer.outputs.at(1) == 6);  // prefill gives six tokens
    const RequestKey key{RequestId{1}, Epoch{0}};
    pair.start(1, prompt, 60);
    REQUIRE(pair.decode.mailbox.wait_for_final(key));
    REQUIRE(pair.tokens(1) == answer.tokens);
    REQUIRE(pair.prefill.mailbox.wait_for_final(key));
    REQUIRE(pair.prefill.mailbox.answer(key).tokens.size() == 6);
    REQUIRE(pair.prefill.mailbox.answer(key).finish == Finish::handed_over);
    REQUIRE(pair.decode.mailbox.answer(key).finish == Finish::length);
    REQUIRE(grammars.masks() == answer.outputs.size());
    if (arrives) {
        REQUIRE(pair.decode.mailbox.answer(key).kv_path == "pushed");
        // No token of the prompt, and of the answer all but those of the last output.
        REQUIRE(pair.decode.engine.tokens_computed() == answer.outputs.back());
    } else {
        REQUIRE(pair.decode.mailbox.answer(key).kv_path == "recomputed");
    }
    REQUIRE(pair.prefill.wait_idle());
    REQUIRE(pair.decode.wait_idle());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("only what decode lacks is sent", "[decode_worker]") {
    Random random{2};
    Pair pair;
    const auto prompt = random_prompt(random, 96);
    pair.start(1, prompt, 4);
    REQUIRE(pair.decode.mailbox.wait_for_final({RequestId{1}, Epoch{0}}));
    REQUIRE(pair.prefill.wait_idle());
    auto longer = prompt;
    longer.insert(longer.end(), {1, 2, 3});
    pair.start(2, longer, 4);
    REQUIRE(pair.decode.mailbox.wait_for_final({RequestId{2}, Epoch{0}}));
    REQUIRE(pair.tokens(2) == ledger_continuation(longer, 4, 1000));
    REQUIRE(pair.prefill.wait_idle());
    REQUIRE(pair.decode.wait_idle());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("KV that came with loss is never published, nor what is computed from it", "[decode_worker]") {
    Random random{3};
    const SaysLossyCodec codec;
    Pair pair({}, {}, {.codecs = kv_transfer::Codecs({&codec})});
    pair.kv_mode.set_codec("test");
    pair.kv_mode.set_lossy(true);
    const auto prompt = random_prompt(random, 96);
    const auto cached = [&](TestWorker& worker) {
        std::promise<std::uint32_t> blocks;
        auto answer = blocks.get_future();
        REQUIRE(worker.loop.post([&] { blocks.set_value(worker.cache.counts().cached); }));
        return answer.get();
    };
    const auto run = [&](std::uint64_t request) {
        pair.start(request, prompt, 40);
        REQUIRE(pair.decode.mailbox.wait_for_final({RequestId{request}, Epoch{0}}));
        REQUIRE(pair.decode.mailbox.answer({RequestId{request}, Epoch{0}}).kv_path == "pushed");
        REQUIRE(pair.tokens(request) == ledger_continuation(prompt, 40, 1000));
        REQUIRE(pair.prefill.wait_idle());
        REQUIRE(pair.decode.wait_idle());
    };
    run(1);
    REQUIRE(cached(pair.prefill) == 6);  // what it computed itself is exact
    REQUIRE(cached(pair.decode) == 0);
    run(2);  // there is nothing that it could be taken for
    REQUIRE(cached(pair.decode) == 0);
    pair.kv_mode.Clear();
    run(3);
    REQUIRE(cached(pair.decode) == 8);  // 135 tokens: all full blocks, of the prompt and behind it
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("while a step hangs, hand-offs come and go without end: every event of the granted ones arrives",
          "[decode_worker]") {
    Random random{4};
    const KvPlane plane{.handoffs_max = 8};
    const auto network = net::InProcessNetwork::make();
    worker::WorkerOptions limits;
    limits.kv_wait = limits.kv_lease = limits.room_pending = kPatience * 10;
    TestWorker prefill(*network, "prefill", 11, limits, {}, {});
    TestWorker decode(*network, "decode", 22, limits, {}, plane);
    const auto comes = [&](const std::function<bool()>& condition) {
        const auto give_up = decode.clock.now() + kPatience;
        while (!condition() && decode.clock.now() < give_up) {
            std::this_thread::yield();
        }
        return condition();
    };
    const auto key_of = [&](std::uint64_t request) {
        return kv_transfer::HandoffKey{RequestId{request}, Epoch{0}, prefill.incarnation, decode.incarnation};
    };
    const std::vector<base::BlockId> blocks{base::BlockId{0}, base::BlockId{1}};
    const auto open = [&](std::uint64_t request) {
        return prefill.sender->open({.key = key_of(request),
                                     .kv_address = decode.transport->address(),
                                     .kv_tokens = 32,
                                     .blocks = blocks,
                                     .deadline = decode.clock.now() + kPatience * 10});
    };
    // Four sequences whose blocks frames may be written to.
    for (std::uint64_t request = 1; request <= 4; ++request) {
        worker::StartRequest start;
        start.key = {RequestId{request}, Epoch{0}};
        start.gateway = kGateway;
        start.part = Part::decode;
        start.prompt = random_prompt(random, 32);
        start.stop.new_tokens_max = 10;
        start.peer = prefill.as_peer();
        REQUIRE(decode.loop.post_command(start));
        REQUIRE(open(request));
    }
    REQUIRE(comes([&] {
        decode.driver.turn();
        return decode.cache.counts().pinned == 8;
    }));
    // Now the step thread does nothing, and a hundred others ask for room and are cancelled.
    for (std::uint64_t request = 101; request <= 200; ++request) {
        REQUIRE(open(request));
        prefill.sender->abort(key_of(request), {base::ErrorCode::cancelled, "client_gone"});
        REQUIRE(comes([&] { return prefill.sender->handoffs_open() == 4; }));
    }
    for (std::uint64_t request = 1; request <= 4; ++request) {
        prefill.sender->abort(key_of(request), {base::ErrorCode::cancelled, "client_gone"});
    }
    REQUIRE(comes([&] { return decode.receiver->handoffs_open() == 0; }));
    decode.driver.turn();
    for (std::uint64_t request = 1; request <= 4; ++request) {
        REQUIRE(
            decode.loop.post_command(worker::CancelRequest{{RequestId{request}, Epoch{0}}, kGateway, "client_gone"}));
    }
    // A hand-off is counted as ended before its event is in the step thread's mailbox.
    REQUIRE(comes([&] {
        decode.driver.turn();
        const auto counts = decode.cache.counts();
        return counts.used + counts.pinned + counts.stranded == 0 && decode.loop.idle();
    }));
    prefill.stop();
    decode.stop();
}

TEST_CASE("many split requests over faulty links and a small pool: right tokens, no hang, no leak",
          "[decode_worker][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(12)));
    CAPTURE(seed);
    Random random{seed};
    net::FaultPlan faults;
    faults.seed = seed;
    const net::FaultKind kinds[] = {net::FaultKind::drop,    net::FaultKind::delay,     net::FaultKind::corrupt,
                                    net::FaultKind::reorder, net::FaultKind::duplicate, net::FaultKind::cut};
    faults.rules = {{.fault = kinds[seed % 6],
                     .message_kind = std::nullopt,
                     .nth = 1 + random() % 40,
                     .probability = seed < 6 ? 0.05 : 0.2,
                     .delay = std::chrono::milliseconds(5)}};
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 16 + random() % 64;
    limits.kv_wait = std::chrono::milliseconds(400);
    limits.kv_lease = std::chrono::milliseconds(200);
    limits.room_pending = std::chrono::milliseconds(200);
    limits.handoff_timeout = std::chrono::milliseconds(800);
    LedgerEngine::Options engine_options;
    engine_options.layers = 3;
    engine_options.blocks_total = 40;
    limits.forced_tokens_max = 32;
    test_support::ForcingGrammars grammars;
    Pair pair(limits, engine_options, {.faults = faults}, &grammars);
    pair.keeps_to_grammar = seed / 6 % 2 == 1;
    std::map<std::uint64_t, std::vector<TokenId>> prompts;
    const std::uint32_t new_tokens = 12;
    for (std::uint64_t request = 1; request <= 24; ++request) {
        prompts[request] = random_prompt(random, 1 + random() % 120);
        pair.start(request, prompts[request], new_tokens, random() % 2 == 0);
    }
    for (const auto& [request, prompt] : prompts) {
        CAPTURE(request);
        const RequestKey key{RequestId{request}, Epoch{0}};
        REQUIRE(pair.decode.mailbox.wait_for_final(key));
        REQUIRE(pair.prefill.mailbox.wait_for_final(key));
        REQUIRE(pair.decode.mailbox.answer(key).finals == 1);
        REQUIRE(pair.prefill.mailbox.answer(key).finals == 1);
        REQUIRE(pair.tokens(request) == (pair.keeps_to_grammar
                                             ? test_support::ForcingGrammars::answer(prompt, new_tokens).tokens
                                             : ledger_continuation(prompt, new_tokens, 1000)));
    }
    REQUIRE(pair.prefill.wait_idle());
    REQUIRE(pair.decode.wait_idle());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("cancel at any moment of a hand-off frees everything", "[decode_worker][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    Random random{seed};
    Pair pair;
    for (std::uint64_t request = 1; request <= 10; ++request) {
        pair.start(request, random_prompt(random, 1 + random() % 200), 50);
        for (auto spin = random() % 3000; spin > 0; --spin) {
            std::this_thread::yield();
        }
        const RequestKey key{RequestId{request}, Epoch{0}};
        if (random() % 2 == 0) {
            REQUIRE(pair.prefill.loop.post_command(worker::CancelRequest{key, kGateway, "client_gone"}));
            REQUIRE(pair.decode.loop.post_command(worker::CancelRequest{key, kGateway, "client_gone"}));
        } else {
            REQUIRE(pair.decode.loop.post_command(worker::CancelRequest{key, kGateway, "client_gone"}));
            REQUIRE(pair.prefill.loop.post_command(worker::CancelRequest{key, kGateway, "client_gone"}));
        }
    }
    REQUIRE(pair.prefill.wait_idle());
    REQUIRE(pair.decode.wait_idle());
    REQUIRE(pair.prefill.engine.violations() + pair.decode.engine.violations() == 0);
}

TEST_CASE("a dead prefill worker costs a recompute, not the request", "[decode_worker]") {
    Random random{5};
    worker::WorkerOptions limits;
    limits.kv_wait = std::chrono::milliseconds(50);
    Pair pair(limits);
    const auto prompt = random_prompt(random, 60);
    worker::StartRequest start;
    start.key = {RequestId{1}, Epoch{0}};
    start.gateway = kGateway;
    start.part = Part::decode;
    start.prompt = prompt;
    start.stop.new_tokens_max = 10;
    start.peer = {base::WorkerId{9}, base::Incarnation{99}, "nobody"};
    REQUIRE(pair.decode.loop.post_command(start));
    const auto expected = ledger_continuation(prompt, 10, 1000);
    REQUIRE(pair.decode.loop.post_command(worker::ContinueRequest{start.key, kGateway, {expected[0]}}));
    REQUIRE(pair.decode.mailbox.wait_for_final(start.key));
    REQUIRE(pair.decode.mailbox.answer(start.key).tokens == std::vector<TokenId>(expected.begin() + 1, expected.end()));
    REQUIRE(pair.decode.mailbox.answer(start.key).kv_path == "recomputed");
}
