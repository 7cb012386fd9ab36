#include "worker/options.h"

#include "tests/support/catch.h"

TEST_CASE("a worker on a GPU has larger batches, and the config overrules either", "[worker]") {
    base::Config host_config;
    const auto host = worker::WorkerOptions::read(host_config, false);
    base::Config gpu_config;
    const auto gpu = worker::WorkerOptions::read(gpu_config, true);
    REQUIRE(host.batch_tokens_max == worker::WorkerOptions{}.batch_tokens_max);
    REQUIRE(gpu.batch_tokens_max > host.batch_tokens_max);
    REQUIRE(gpu.batch_sequences_max > host.batch_sequences_max);
    REQUIRE(gpu.chunk_tokens_max > host.chunk_tokens_max);
    REQUIRE(gpu.queue_requests_max > host.queue_requests_max);
    REQUIRE(gpu.kv_wait == host.kv_wait);
    REQUIRE(host.kv_both_ends);
    REQUIRE(host.kv_ahead_percent == 0);
    for (const bool on_gpu : {false, true}) {
        base::Config config;
        REQUIRE(config.set("worker.batch_tokens_max=77"));
        REQUIRE(config.set("worker.kv_both_ends=false"));
        REQUIRE(worker::WorkerOptions::read(config, on_gpu).batch_tokens_max == 77);
        REQUIRE_FALSE(worker::WorkerOptions::read(config, on_gpu).kv_both_ends);
        REQUIRE(config.set("worker.kv_ahead_percent=30"));
        REQUIRE(worker::WorkerOptions::read(config, on_gpu).kv_ahead_percent == 30);
    }
}
