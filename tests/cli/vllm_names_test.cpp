// Metrics as inference gateways read them.
#include "cli/vllm_names.h"

#include "cli/metrics_text.h"

#include "tests/support/catch.h"

TEST_CASE("what pickers read is there by vLLM's names, of all workers of a model together", "[cli]") {
    const std::string text = cli::vllm_names(
        "# TYPE sluice_worker_requests_waiting gauge\n"
        "sluice_worker_requests_waiting{model=\"m\",role=\"prefill\",worker=\"a\"} 3\n"
        "sluice_worker_requests_waiting{model=\"m\",role=\"decode\",worker=\"b\"} 2\n"
        "sluice_worker_requests_waiting{model=\"say \\\"x\\\"\",role=\"encode\",worker=\"c\"} 0\n"
        "sluice_worker_requests_running{model=\"m\",role=\"decode\",worker=\"b\"} 4\n"
        "sluice_worker_kv_cache_usage_ratio{model=\"m\",worker=\"a\"} 0.25\n"
        "sluice_worker_kv_cache_usage_ratio{model=\"m\",worker=\"b\"} 0.75\n"
        "sluice_worker_cache_config_info{block_size=\"16\",dtype=\"bf16\",kv_format=\"bf16/"
        "lanes\",model=\"m\",num_blocks=\"90\",worker=\"a\"} 1\n"
        "sluice_gateway_inflight_requests{model=\"m\"} 9\n");
    const auto samples = cli::parse_metrics(text);
    REQUIRE(samples.has_value());
    REQUIRE(samples->size() == 5u);
    CHECK(text.find(
              "\nvllm:cache_config_info{model_name=\"m\",engine=\"a\",block_size=\"16\",num_gpu_blocks=\"90\"} 1\n") !=
          std::string::npos);
    const auto value = [&](std::string_view name, std::string_view model) {
        for (const cli::Sample& sample : *samples) {
            if (sample.name == name && sample.label("model_name") == model) { return sample.value; }
        }
        return -1.0;
    };
    CHECK(value("vllm:num_requests_waiting", "m") == 5.0);
    CHECK(value("vllm:num_requests_waiting", "say \"x\"") == 0.0);
    CHECK(value("vllm:num_requests_running", "m") == 4.0);
    CHECK(value("vllm:kv_cache_usage_perc", "m") == 0.5);
    CHECK(text.find("# TYPE vllm:kv_cache_usage_perc gauge\n") != std::string::npos);
}

TEST_CASE("a process without workers has nothing for pickers", "[cli]") {
    CHECK(cli::vllm_names("sluice_scheduler_leads 1\n").empty());
}
