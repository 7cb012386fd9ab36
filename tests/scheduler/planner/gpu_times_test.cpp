#include "scheduler/planner/fitted_tables.h"
#include "scheduler/planner/gpu.h"
#include "scheduler/planner/operator_tables.h"

#include "tests/support/catch.h"

using scheduler::planner::find_gpu;
using scheduler::planner::Model;
using scheduler::planner::OperatorTables;
using scheduler::planner::PromptChunk;
using scheduler::planner::read_model;
using scheduler::planner::Split;
using scheduler::planner::times_of_gpu;

namespace {

Model llama_8b() {
    return *read_model(R"({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "torch_dtype": "bfloat16"})");
}

double decode_seconds(const scheduler::planner::StepTimes& times, double sequences, double context) {
    return times.seconds(
        {.prompts = {}, .decode_sequences = sequences, .decode_context = sequences * context, .sampled = sequences});
}

}  // namespace

TEST_CASE("from a datasheet alone a step is about what the roofline says", "[scheduler][planner]") {
    const auto times = times_of_gpu(*find_gpu("H200"), {}, llama_8b(), {});
    // 15 GB of weights at four fifths of 4.8 TB/s: 3.9 ms, and launches. Measured on one: 4.7 ms.
    REQUIRE(decode_seconds(times, 1, 1024) > 3.9e-3);
    REQUIRE(decode_seconds(times, 1, 1024) < 5.5e-3);
    // 4096 tokens: 83 ms measured.
    const PromptChunk prompt[] = {{4096, 0}};
    REQUIRE(times.seconds({.prompts = prompt, .sampled = 1}) == Approx(0.083).epsilon(0.2));
    REQUIRE(times.sources[0].from == "roofline: h200's datasheet");
    REQUIRE_FALSE(find_gpu("h2000"));
}

TEST_CASE("more work is never predicted to be faster, more GPUs hardly slower", "[scheduler][planner]") {
    const auto one = times_of_gpu(*find_gpu("a100"), {}, llama_8b(), {});
    const auto four = times_of_gpu(*find_gpu("a100"), {}, llama_8b(), {.tensor = 4, .pipeline = 1});
    double before = 0;
    for (const double sequences : {1., 3., 17., 64., 300., 900.}) {
        const double seconds = decode_seconds(one, sequences, 1000);
        REQUIRE(seconds >= before);
        REQUIRE(decode_seconds(one, sequences, 3000) >= seconds);
        REQUIRE(decode_seconds(four, sequences, 1000) < seconds);
        before = seconds;
    }
    const PromptChunk first[] = {{2048, 0}};
    const PromptChunk later[] = {{2048, 8192}};
    REQUIRE(one.seconds({.prompts = later}) > one.seconds({.prompts = first}));
}

TEST_CASE("measured operators take the roofline's place, and it is told which", "[scheduler][planner]") {
    OperatorTables tables;
    // Every product takes 1 ms, attention of 32 + 8 heads of 128 takes 2 ms; nothing of other types or windows counts.
    REQUIRE(
        tables.add_gemm("gemm_dtype,m,n,k,latency_ms\nbfloat16,1,32,32,1\nbfloat16,9,99,99,1\nfp8,1,32,32,900\n", "g"));
    REQUIRE(
        tables.add_context_attention("batch_size,isl,num_heads,num_key_value_heads,head_dim,kv_cache_dtype,window_size,"
                                     "latency_ms\n1,1,32,8,128,bfloat16,0,2\n1,9,32,8,128,bfloat16,0,2\n"
                                     "1,1,32,8,128,fp8,0,7\n2,1,32,8,128,bfloat16,0,7\n",
                                     "c"));
    REQUIRE(
        tables.add_generation_attention("batch_size,step,num_heads,num_key_value_heads,head_dim,latency_ms\n"
                                        "1,0,32,8,128,2\n9,99,32,8,128,2\n",
                                        "d"));
    const auto times = times_of_gpu(*find_gpu("h200"), tables, llama_8b(), {});
    REQUIRE(decode_seconds(times, 1, 10) == Approx(32 * (4e-3 + 2e-3) + 1e-3).epsilon(0.01));
    std::string sources;
    for (const auto& source : times.sources) {
        sources += source.what + ": " + source.from + "; ";
    }
    REQUIRE(sources.find("matrices: measured: g") == 0);
    REQUIRE(sources.find("attention of decoding: measured: d") != std::string::npos);

    // vidur's operators of the same widths: each of nine 1 ms, the addition twice.
    REQUIRE(tables.add_model_operators(
        "num_tensor_parallel_workers,num_tokens,n_head,n_kv_head,n_embd,n_expanded_embd,input_layernorm.median,"
        "attn_pre_proj.median,attn_rope.median,attn_post_proj.median,post_attention_layernorm.median,"
        "mlp_up_proj.median,mlp_act.median,mlp_down_proj.median,add.median\n1,1,32,8,4096,14336,1,1,1,1,1,1,1,1,1\n",
        "v"));
    REQUIRE(times_of_gpu(*find_gpu("h200"), tables, llama_8b(), {}).tokens.at(1) == Approx(32 * 10e-3));
    REQUIRE_FALSE(tables.add_gemm("m,n\n", "g"));
}

TEST_CASE("all-reduces are measured in elements of two bytes", "[scheduler][planner]") {
    OperatorTables tables;
    REQUIRE(
        tables.add_all_reduce("num_gpus,message_size,latency_ms,backend\n2,1000,1,vllm_graph\n2,2000,2,vllm_graph\n"
                              "2,1000,9,vllm_eager\n",
                              "r"));
    REQUIRE(tables.all_reduce(2)->table.at(3000) == Approx(1.5e-3));
    REQUIRE(tables.all_reduce(4) == nullptr);
}

TEST_CASE("KV has the room that weights leave", "[scheduler][planner]") {
    const auto gpu = *find_gpu("h200");
    const double tokens = kv_tokens_of(gpu, llama_8b(), {});
    REQUIRE(tokens == Approx(0.88e6).epsilon(0.1));  // published: about 0.9 million
    REQUIRE(kv_tokens_of(gpu, llama_8b(), {.tensor = 2, .pipeline = 1}) > 2 * tokens);
    REQUIRE(kv_tokens_of(*find_gpu("rtx4090"), llama_8b(), {}) < 50'000);
}

TEST_CASE("this machine's steps come from its own bench", "[scheduler][planner]") {
    const char* const bench = R"({"engine": "cpu", "prefill": [{"tokens": 100, "median_s": 0.11},
        {"tokens": 1000, "median_s": 1.01}], "decode": [{"batch": 1, "context_tokens": 100, "median_s": 0.0211,
        "bytes_per_s": 1e9}, {"batch": 8, "context_tokens": 100, "median_s": 0.0288, "bytes_per_s": 1e9}]})";
    const auto times = scheduler::planner::times_of_bench(bench, 1000);
    REQUIRE(times);
    const PromptChunk prompt[] = {{500, 0}};
    REQUIRE(times->seconds({.prompts = prompt}) == Approx(0.51));
    // 0.02 s, 1 ms a sequence, and the KV that is read: 100 tokens of 1000 bytes for each.
    REQUIRE(decode_seconds(*times, 4, 100) == Approx(0.02 + 4 * (1e-3 + 1e-4)).epsilon(0.001));
    REQUIRE(times->sources[0].from == "measured: sluice bench engine, cpu");
    REQUIRE(scheduler::planner::machine_of_bench(bench).cores == 0);  // an older file: it does not say
    REQUIRE(scheduler::planner::machine_of_bench(bench).host.is_none());
    const auto machine = scheduler::planner::machine_of_bench(
        R"({"threads": 3, "cores": 8, "beside": {"engines": 1, "decode_by_decode": 0.15},
        "host": {"between_s": 2e-4, "step_s": 4e-4, "handed_token_s": 8e-5}})");
    REQUIRE(machine.threads == 3);
    REQUIRE(machine.cores == 8);
    REQUIRE(machine.beside == scheduler::planner::Beside{.decode_by_decode = 0.15});
    REQUIRE(machine.host == scheduler::planner::HostWork{.step_seconds = 4e-4, .handed_token_seconds = 8e-5});
    REQUIRE(machine.between_seconds == 2e-4);
    REQUIRE(scheduler::planner::times_of_bench("{}", 1).error().message.find("no figures in `prefill`") !=
            std::string::npos);
}

TEST_CASE("prompts of this machine bend where three lengths say so", "[scheduler][planner]") {
    const auto prefill_seconds = [](const std::string& figures, const PromptChunk& chunk) {
        const auto times = scheduler::planner::times_of_bench(
            R"({"prefill": [)" + figures + R"(], "decode": [{"batch": 1, "median_s": 0.02, "bytes_per_s": 1e9}]})",
            1000);
        REQUIRE(times);
        return times->seconds({.prompts = {&chunk, 1}});
    };
    // 4 ms, 0.3 ms a token, and 0.1 us for each pair of tokens.
    const auto truly = [](double tokens) { return 4e-3 + 3e-4 * tokens + 1e-7 * tokens * tokens; };
    std::string figures;
    for (const double tokens : {16.0, 128.0, 512.0, 768.0}) {
        figures += (figures.empty() ? "" : ", ") + std::string(R"({"tokens": )") + std::to_string(tokens) +
                   R"(, "median_s": )" + std::to_string(truly(tokens)) + "}";
    }
    CHECK(prefill_seconds(figures, {300, 0}) == Approx(truly(300)).epsilon(0.001));
    // The rest of a prompt sees what is before it: both parts together take what the whole does, and one step more.
    CHECK(prefill_seconds(figures, {512, 0}) + prefill_seconds(figures, {188, 512}) ==
          Approx(truly(700) + 4e-3).epsilon(0.001));
    // Shorter ones that take longer for each token do not make long ones free.
    const std::string odd = R"({"tokens": 16, "median_s": 0.01}, {"tokens": 128, "median_s": 0.06},
        {"tokens": 512, "median_s": 0.18})";
    CHECK(prefill_seconds(odd, {2000, 0}) > prefill_seconds(odd, {1000, 0}));
    CHECK(prefill_seconds(odd, {1000, 0}) > 0.3);
}

TEST_CASE("decodes of this machine are as they were measured, batch by batch", "[scheduler][planner]") {
    const auto times_of = [](const std::vector<std::pair<double, double>>& figures) {
        std::string text;
        for (const auto& [batch, seconds] : figures) {
            text += (text.empty() ? "" : ", ") + std::string(R"({"batch": )") + std::to_string(batch) +
                    R"(, "bytes_per_s": 1e12, "median_s": )" + std::to_string(seconds) + "}";
        }
        const auto times = scheduler::planner::times_of_bench(
            R"({"prefill": [{"tokens": 100, "median_s": 0.1}], "decode": [)" + text + "]}", 1);
        REQUIRE(times);
        return *times;
    };
    const auto bent = times_of({{1, 0.008}, {12, 0.019}, {2, 0.010}, {4, 0.012}, {3, 0.0115}, {8, 0.0155}});
    CHECK(decode_seconds(bent, 1, 0) == Approx(0.008));
    CHECK(decode_seconds(bent, 3, 0) == Approx(0.0115));
    CHECK(decode_seconds(bent, 6, 0) == Approx((0.012 + 0.0155) / 2));
    CHECK(decode_seconds(bent, 8, 0) == Approx(0.0155));
    CHECK(decode_seconds(bent, 24, 0) > decode_seconds(bent, 12, 0));
    const auto straight = times_of({{1, 0.011}, {2, 0.012}, {3, 0.01301}, {4, 0.014}, {8, 0.01799}});
    CHECK(decode_seconds(straight, 16, 0) == Approx(0.026).epsilon(0.01));
    // Beside a prompt they add what they add to a step of fewer: 10 ms are there without any.
    const PromptChunk prompt[] = {{100, 0}};
    const double alone = straight.seconds({.prompts = prompt});
    CHECK(straight.seconds({.prompts = prompt, .decode_sequences = 4, .decode_context = 0}) ==
          Approx(alone + 0.004).epsilon(0.01));
    // Four that cannot be told from noise: nowhere do more sequences take less.
    const auto noisy = times_of({{1, 0.010}, {2, 0.014}, {3, 0.011}, {4, 0.012}});
    for (double batch = 1; batch < 16; ++batch) {
        CHECK(decode_seconds(noisy, batch + 1, 0) >= decode_seconds(noisy, batch, 0));
    }
}

TEST_CASE("what context costs a decode step is measured where two lengths were", "[scheduler][planner]") {
    // 8 ms, 1 ms for each sequence and 2 us for each token of its context; by the bytes it would be 50 us.
    const auto truly = [](double batch, double context) { return 8e-3 + batch * (1e-3 + 2e-6 * context); };
    const auto times_of = [&](const std::vector<std::pair<double, double>>& figures) {
        std::string text;
        for (const auto& [batch, context] : figures) {
            text += (text.empty() ? "" : ", ") + std::string(R"({"batch": )") + std::to_string(batch) +
                    R"(, "context_tokens": )" + std::to_string(context) + R"(, "bytes_per_s": 2e8, "median_s": )" +
                    std::to_string(truly(batch, context)) + "}";
        }
        const auto times = scheduler::planner::times_of_bench(
            R"({"prefill": [{"tokens": 100, "median_s": 0.1}], "decode": [)" + text + "]}", 1e4);
        REQUIRE(times);
        return *times;
    };
    const auto measured = times_of({{1, 500}, {4, 500}, {8, 500}, {4, 100}});
    for (const double context : {100.0, 500.0, 900.0}) {
        CAPTURE(context);
        CHECK(decode_seconds(measured, 1, context) == Approx(truly(1, context)).epsilon(0.005));
        CHECK(decode_seconds(measured, 8, context) == Approx(truly(8, context)).epsilon(0.005));
    }
    // Not more than sequences cost with their context: where that was measured all is as it was.
    const auto bounded = times_of({{1, 500}, {4, 500}, {8, 500}});
    for (const double batch : {1.0, 4.0, 8.0}) {
        CHECK(decode_seconds(bounded, batch, 500) == Approx(truly(batch, 500)).epsilon(0.01));
    }
}

TEST_CASE("DistServe's profile is read by model and split", "[scheduler][planner]") {
    const char* const profile = R"({"m": {"2": {"decoding_large_small_bs_threshold": 95, "prefill": [1, 2, 3],
        "decoding_smallbs": [4, 5, 6], "decoding_largebs": [7, 8, 9]}}})";
    const auto forms = scheduler::planner::read_fitted_forms(profile, "m", 2);
    REQUIRE(forms);
    REQUIRE(forms->prefill_seconds(10, 100) == 321);
    REQUIRE(forms->decode_seconds(10, 95) == 7 + 80 + 855);
    REQUIRE(scheduler::planner::times_of_fitted(profile, "m", 2)->fitted->prefill[0] == Approx(1e-3));
    REQUIRE(scheduler::planner::read_fitted_forms(profile, "n", 2).error().message ==
            "DistServe's profile has no model n; it has m");
    REQUIRE(scheduler::planner::read_fitted_forms(profile, "m", 4).error().message.find("it has 2") !=
            std::string::npos);
    REQUIRE_FALSE(scheduler::planner::read_fitted_forms(R"({"m": {"2": {}}})", "m", 2));
}
