#include <atomic>
#include <chrono>
#include <thread>

#include "engine/kernels/thread_pool.h"
#include "tests/engine/kernels/kernels_fixture.h"
#include "tests/support/catch.h"

using engine::ThreadPool;

TEST_CASE("every task runs exactly once, for any number of threads and tasks", "[kernels]") {
    for (const std::uint32_t threads : {1u, 2u, 3u, 8u}) {
        ThreadPool pool{{.threads = threads, .cpus = {}}};
        for (std::uint32_t round = 0; round < 300; ++round) {
            const std::uint32_t tasks = round % 37;
            std::vector<std::atomic<std::uint32_t>> runs(tasks);
            pool.parallel(tasks, [&](std::uint32_t task) { runs[task].fetch_add(1, std::memory_order_relaxed); });
            for (const auto& count : runs) {
                REQUIRE(count.load() == 1);
            }
        }
    }
}

TEST_CASE("what tasks write is visible after the join, in many small jobs", "[kernels]") {
    ThreadPool pool{{.threads = 3, .cpus = {}}};
    std::vector<std::uint64_t> sums(16, 0);  // plain memory: a missing order is a race
    for (std::uint64_t round = 0; round < 20'000; ++round) {
        pool.parallel(16, [&](std::uint32_t task) { sums[task] += round + task; });
    }
    for (std::uint64_t task = 0; task < 16; ++task) {
        REQUIRE(sums[task] == 19'999ull * 20'000 / 2 + 20'000 * task);
    }
}

TEST_CASE("a pool that has gone to sleep wakes up", "[kernels]") {
    ThreadPool pool{{.threads = 2, .cpus = {0, 1}}};
    for (int round = 0; round < 5; ++round) {
        std::atomic<int> inside{0};
        std::atomic<bool> met{false};
        // Both tasks wait for each other, so both threads must take part, however long they slept before.
        pool.parallel(2, [&](std::uint32_t) {
            inside.fetch_add(1);
            while (inside.load() < 2) {
                std::this_thread::yield();
            }
            met = true;
        });
        REQUIRE(met);
        const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);  // longer than any spin
        while (std::chrono::steady_clock::now() < until) {
            std::this_thread::yield();
        }
    }
}

TEST_CASE("tasks compute with denormals as zero, the caller afterwards as before", "[kernels]") {
    volatile float tiny = 1e-40f;
    REQUIRE(tiny * 2.0f != 0.0f);
    for (const std::uint32_t threads : {1u, 2u}) {
        ThreadPool pool{{.threads = threads, .cpus = {}}};
        std::atomic<std::uint32_t> inside{0};
        std::atomic<std::uint32_t> zeros{0};
        // The tasks wait for each other, so each thread takes one.
        pool.parallel(threads, [&](std::uint32_t) {
            inside.fetch_add(1);
            while (inside.load() < threads) {
                std::this_thread::yield();
            }
            if (tiny * 2.0f == 0.0f) { zeros.fetch_add(1); }
        });
        REQUIRE(zeros == threads);
        REQUIRE(tiny * 2.0f != 0.0f);
    }
}

TEST_CASE("the caller may change from job to job", "[kernels]") {
    ThreadPool pool{{.threads = 2, .cpus = {0}}};
    std::atomic<int> done{0};
    for (int i = 0; i < 4; ++i) {
        std::jthread caller{[&] { pool.parallel(10, [&](std::uint32_t) { done.fetch_add(1); }); }};
    }
    REQUIRE(done == 40);
}
