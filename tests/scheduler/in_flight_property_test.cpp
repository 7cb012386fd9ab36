#include <map>
#include <random>

#include "base/clock.h"
#include "scheduler/in_flight.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using namespace std::chrono_literals;

namespace {

/// One placement as the rules of in_flight.h have it, without sums or lists.
struct Model {
    scheduler::PlacedRequest placed;
    std::uint64_t prefill_life = 0;
    std::uint64_t decode_life = 0;
    bool prefill = true;
    bool decode = true;
    int prefill_heartbeats = 0;
    int decode_heartbeats = 0;
    bool first_token = false;
    base::TimePoint until;
};

}  // namespace

TEST_CASE("pending load equals the sum over what is in flight", "[scheduler][in_flight][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(100)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    base::FakeClock clock;
    scheduler::InFlight in_flight({.placements_max = 1000, .pending_min = 20s, .remembered = 1h});
    std::map<std::uint64_t, Model> model;
    constexpr std::uint32_t kSlots = 4;
    std::array<std::uint64_t, kSlots> lives{};
    const auto slot = [&random] { return static_cast<std::uint32_t>(random() % kSlots); };

    for (int step = 0; step < 800; ++step) {
        clock.advance(std::chrono::milliseconds(random() % 500));
        const std::uint64_t request = 1 + random() % 30;
        const auto known = model.find(request);
        const bool late = random() % 4 == 0;
        const std::uint32_t epoch =
            (known != model.end() ? base::raw(known->second.placed.epoch) : 0) + (late ? 1000u : 0u);
        switch (random() % 6) {
            case 0:
            case 1: {
                const scheduler::PlacedRequest placed{
                    .request = base::RequestId{request},
                    .epoch = base::Epoch{known == model.end() ? 0 : base::raw(known->second.placed.epoch) + 1},
                    .prefill_slot = slot(),
                    .decode_slot = slot(),
                    .uncached_tokens = static_cast<std::uint32_t>(random() % 100),
                    .prompt_tokens = static_cast<std::uint32_t>(random() % 1000),
                    .decode_blocks = random() % 50,
                    .ttft_seconds = static_cast<double>(random() % 10)};
                in_flight.add(placed, clock.now());
                model[request] = {
                    .placed = placed,
                    .prefill_life = lives[placed.prefill_slot],
                    .decode_life = lives[placed.decode_slot],
                    .until = clock.now() + std::max<base::Duration>(
                                               20s, std::chrono::seconds(4 * static_cast<int>(placed.ttft_seconds)))};
                break;
            }
            case 2: {
                const bool expected = known != model.end() && !late && !known->second.first_token;
                REQUIRE(in_flight.first_token(base::RequestId{request}, base::Epoch{epoch}, clock.now()).has_value() ==
                        expected);
                if (expected) {
                    known->second.first_token = true;
                    known->second.prefill = false;
                }
                break;
            }
            case 3: {
                const bool expected = known != model.end() && !late;
                REQUIRE(in_flight.ended(base::RequestId{request}, base::Epoch{epoch}, clock.now()).has_value() ==
                        expected);
                if (expected) { model.erase(known); }
                break;
            }
            case 4: {
                const std::uint32_t reporting = slot();
                in_flight.heartbeat(reporting, {}, clock.now());
                for (auto& [id, one] : model) {
                    const bool overdue = clock.now() >= one.until;
                    if (one.prefill && one.placed.prefill_slot == reporting && one.prefill_life == lives[reporting] &&
                        (overdue || ++one.prefill_heartbeats >= 2)) {
                        one.prefill = false;
                    }
                    if (one.decode && one.placed.decode_slot == reporting && one.decode_life == lives[reporting] &&
                        (overdue || (one.first_token && ++one.decode_heartbeats >= 2))) {
                        one.decode = false;
                    }
                }
                break;
            }
            default:
                if (random() % 5 == 0) {
                    const std::uint32_t gone = slot();
                    in_flight.worker_gone(gone);
                    ++lives[gone];
                }
        }
        REQUIRE(in_flight.placements() == model.size());
        for (std::uint32_t at = 0; at < kSlots; ++at) {
            scheduler::PendingLoad expected;
            for (const auto& [id, one] : model) {
                if (one.prefill && one.placed.prefill_slot == at && one.prefill_life == lives[at]) {
                    expected.prefill_requests += 1;
                    expected.prefill_tokens += one.placed.uncached_tokens;
                }
                if (one.decode && one.placed.decode_slot == at && one.decode_life == lives[at]) {
                    expected.decode_sequences += 1;
                    expected.decode_context_tokens += one.placed.prompt_tokens;
                    expected.decode_blocks += one.placed.decode_blocks;
                }
            }
            REQUIRE(in_flight.pending(at) == expected);
        }
    }
}
