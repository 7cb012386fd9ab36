#include "sim/replay_files.h"

#include "tests/support/catch.h"

namespace {

constexpr const char* kMachine = R"({"link_bw": 16, "link_latency": 20000, "nodes": [{"instances": [{
    "npu_mem": {"mem_size": 24, "mem_util": 0.9}, "tp_size": 1, "pd_type": null}]}]})";
constexpr const char* kMeta = R"({"engine_kwargs": {"max_num_seqs": 128, "max_num_batched_tokens": 2048,
    "max_model_len": null}})";

scheduler::planner::Model llama_8b() {
    return *scheduler::planner::read_model(R"({"hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
        "max_position_embeddings": 131072, "torch_dtype": "bfloat16"})");
}

}  // namespace

TEST_CASE("machine and settings are read, with vLLM's defaults for what is null", "[sim]") {
    const auto machine = sim::read_replay_machine(kMachine, kMeta, llama_8b());
    REQUIRE(machine);
    REQUIRE(machine->tensor == 1);
    REQUIRE(machine->memory_bytes == 24.0 * (1 << 30));
    REQUIRE(machine->link.latency_seconds == Approx(2e-5));
    REQUIRE(machine->options.sequences_max == 128);
    REQUIRE(machine->options.context_max == 131072);
    REQUIRE(machine->options.plans_ahead);
    const auto memory = sim::replay_memory(*machine, llama_8b());
    REQUIRE(memory);
    REQUIRE(memory->weights == Approx(16.06e9).epsilon(0.001));
    REQUIRE(memory->blocks * 16 > 38'000);
    REQUIRE(memory->blocks * 16 < 48'000);
    REQUIRE(memory->usable ==
            Approx(memory->weights + memory->activations + memory->sampler + memory->graphs + memory->kv));
}

TEST_CASE("what a replay cannot take is refused with the reason", "[sim]") {
    const auto refused = [](const char* machine, const char* meta) {
        const auto read = sim::read_replay_machine(machine, meta, llama_8b());
        return read ? std::string() : read.error().message;
    };
    REQUIRE(refused("{}", kMeta).find("one node with one instance") != std::string::npos);
    REQUIRE(refused(R"({"nodes": [{"instances": [{"pd_type": "prefill"}]}]})", kMeta).find("pd_type") == 0);
    REQUIRE(refused(R"({"nodes": [{"instances": [{}]}]})", kMeta).find("`npu_mem.mem_size` is missing") !=
            std::string::npos);
    REQUIRE(
        refused(kMachine, R"({"engine_kwargs": {"max_num_seqs": -1}})").find("`engine_kwargs.max_num_seqs` is -1") !=
        std::string::npos);
    REQUIRE_FALSE(refused(kMachine, "").empty());
    REQUIRE(refused(kMachine, R"({"engine_kwargs": {"data_parallel_size": 2}})").find("data_parallel_size") == 0);
    auto machine = *sim::read_replay_machine(kMachine, kMeta, llama_8b());
    const auto small = sim::read_replay_machine(kMachine, R"({"engine_kwargs": {"max_num_seqs": 128,
        "kv_cache_dtype": "fp8"}})",
                                                llama_8b());
    REQUIRE(sim::replay_memory(*small, llama_8b())->blocks >= 2 * sim::replay_memory(machine, llama_8b())->blocks);
    machine.memory_bytes /= 2;
    REQUIRE(sim::replay_memory(machine, llama_8b()).error().message.find("no memory for KV") == 0);
}

TEST_CASE("of a request only what arrives is read", "[sim]") {
    const auto requests = sim::read_replay_requests(
        "{\"request_id\": \"r\", \"input_toks\": 5, \"output_toks\": 2, \"arrival_time\": 1.5, \"queued_ts\": "
        "\"x\"}\n\n"
        "{\"input_toks\": 1, \"output_toks\": 1, \"arrival_time\": 0}\n");
    REQUIRE(requests);
    REQUIRE(requests->size() == 2);
    REQUIRE((*requests)[0].id == "r");
    REQUIRE((*requests)[0].arrival_s == 1.5);
    REQUIRE((*requests)[1].id == "1");
    REQUIRE(sim::read_replay_requests("{}\n").error().message.find("requests, line 1: `input_toks` is missing") == 0);
    REQUIRE(sim::read_replay_requests("x").error().message.find("requests, line 1: no valid JSON") == 0);
    REQUIRE_FALSE(sim::read_replay_requests("\n"));
}
