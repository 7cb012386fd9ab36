#include <cstddef>
#include <cstdlib>
#include <new>
#include <random>

#include "base/log.h"
#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

// What a run costs, counted and not timed: its events, and what it takes from the heap. The operators below count for
// the whole program, which has this file alone.

namespace {

std::uint64_t taken = 0;  // blocks of the heap; one thread

void* take(std::size_t bytes, std::size_t alignment) {
    ++taken;
    void* const memory = alignment > alignof(std::max_align_t)
                             ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                             : std::malloc(std::max<std::size_t>(bytes, 1));
    if (memory == nullptr) { std::abort(); }
    return memory;
}

}  // namespace

void* operator new(std::size_t bytes) {
    return take(bytes, 0);
}
void* operator new[](std::size_t bytes) {
    return take(bytes, 0);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return take(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t& /*none*/) noexcept {  // std::stable_sort's
    return take(bytes, 0);
}
void* operator new[](std::size_t bytes, const std::nothrow_t& /*none*/) noexcept {
    return take(bytes, 0);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete[](void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace {

using namespace sim_test;

/// Requests at a steady rate, a third of whose prompts begin as one before.
sim::ServingTrace steady_trace(std::size_t count, double rate) {
    std::mt19937_64 random(5);
    sim::ServingTrace trace;
    double at = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        at += static_cast<double>(random() % 2000) / 1000 / rate;
        sim::ServedRequest request{.arrival_s = at,
                                   .prompt_tokens = static_cast<std::uint32_t>(1 + random() % 300),
                                   .output_tokens = static_cast<std::uint32_t>(1 + random() % 40)};
        request.first_block = trace.blocks.size();
        request.blocks = request.prompt_tokens / trace.block_tokens;
        const std::uint64_t begins_as = random() % 3 == 0 ? i - std::min<std::uint64_t>(i, 1 + random() % 50) : i;
        for (std::uint64_t block = 0; block < request.blocks; ++block) {
            const std::uint64_t name = (begins_as + 1) * 64 + block;  // as evenly spread as real hashes
            trace.blocks.push_back({name * 0x9e3779b97f4a7c15u, name});
        }
        trace.requests.push_back(request);
    }
    return trace;
}

struct Cost {
    double events = 0;
    double taken = 0;
};

Cost cost_of(std::size_t requests) {
    const auto times = linear_times();
    auto options = mixed(times, 60);
    options.checks = false;
    options.keeps_token_times = false;
    const auto trace = steady_trace(requests, 450);
    const std::uint64_t before = taken;
    const auto result = sim::simulate_serving(options, trace);
    REQUIRE(result.has_value());
    REQUIRE(result->counts.refused == 0);
    return {static_cast<double>(result->counts.events), static_cast<double>(taken - before)};
}

}  // namespace

TEST_CASE("what a run costs grows as its requests do", "[sim][property]") {
    spdlog::set_level(spdlog::level::off);
    // Differences: what the begin of a cluster costs is in all of them.
    const Cost small = cost_of(1'000);
    const Cost middle = cost_of(2'000);
    const Cost large = cost_of(4'000);
    CAPTURE(small.events, middle.events, large.events, small.taken, middle.taken, large.taken);
    CHECK(large.events - middle.events == Approx(2 * (middle.events - small.events)).epsilon(0.1));
    CHECK(large.taken - middle.taken == Approx(2 * (middle.taken - small.taken)).epsilon(0.1));
    CHECK((large.taken - middle.taken) / (large.events - middle.events) < 20);
}
