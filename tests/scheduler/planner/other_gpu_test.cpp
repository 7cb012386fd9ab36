#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>

#include "scheduler/planner/gpu.h"
#include "scheduler/planner/operator_tables.h"

#include "tests/support/catch.h"

// One GPU's steps from its datasheet, its table of products and another GPU's tables, beside those of its own tables
// (aiconfigurator's of A100 and H200).

namespace {

using scheduler::planner::find_gpu;
using scheduler::planner::Model;
using scheduler::planner::OperatorTables;
using scheduler::planner::PromptChunk;
using scheduler::planner::read_model;
using scheduler::planner::StepTimes;
using scheduler::planner::times_of_gpu;

std::string profiles() {
    const char* configured = std::getenv("SLUICE_SHARED");
    return std::string(configured != nullptr ? configured : SLUICE_SOURCE_DIR "/../shared") +
           "/data/profiles/aiconfigurator/";
}

std::string text_of(const std::string& name) {
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen((profiles() + name + ".csv.gz").c_str(), "rb"),
                                                          gzclose);
    REQUIRE(file);
    std::string text;
    std::string part(1u << 20, '\0');
    for (int count = 0; (count = gzread(file.get(), part.data(), static_cast<unsigned>(part.size()))) > 0;) {
        text.append(part, 0, static_cast<std::size_t>(count));
    }
    return text;
}

void add_rest(OperatorTables& tables, const std::string& engine) {
    REQUIRE(tables.add_context_attention(text_of(engine + "_context_attention"), engine));
    REQUIRE(tables.add_generation_attention(text_of(engine + "_generation_attention"), engine));
    REQUIRE(tables.add_all_reduce(text_of(engine + "_custom_allreduce"), engine));
}

/// The worst that `predicted` is off, as a share.
struct Off {
    double prompts = 0;
    double decoding = 0;
};
Off off(const StepTimes& measured, const StepTimes& predicted) {
    Off off;
    for (const double tokens : {128., 256., 512., 1024., 2048., 4096., 8192., 16384.}) {
        const PromptChunk prompt[] = {{tokens, 0}};
        const double error =
            predicted.seconds({.prompts = prompt, .sampled = 1}) / measured.seconds({.prompts = prompt, .sampled = 1}) -
            1;
        off.prompts = std::max(off.prompts, std::abs(error));
        CHECK(std::abs(error) < 0.15);
    }
    for (const double sequences : {1., 8., 16., 32., 64., 128., 256.}) {
        for (const double context : {128., 512., 1024., 2048., 4096.}) {
            if (sequences * context > 600'000) { continue; }  // no such memory
            CAPTURE(sequences, context);
            const scheduler::planner::StepShape step{.prompts = {},
                                                     .decode_sequences = sequences,
                                                     .decode_context = sequences * context,
                                                     .sampled = sequences};
            const double error = predicted.seconds(step) / measured.seconds(step) - 1;
            off.decoding = std::max(off.decoding, std::abs(error));
            CHECK(std::abs(error) < 0.15);
        }
    }
    return off;
}

Model llama(bool is_large) {
    return *read_model(is_large ? R"({"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64,
        "num_key_value_heads": 8, "num_hidden_layers": 80, "vocab_size": 128256, "torch_dtype": "bfloat16"})"
                                : R"({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256, "torch_dtype": "bfloat16"})");
}

}  // namespace

TEST_CASE("an H200 is predicted from its datasheet, its products and an A100's tables",
          "[scheduler][planner][golden]") {
    if (!std::filesystem::exists(profiles())) {
        std::cout << "SKIPPED: " << profiles() << " is not there (SLUICE_SHARED)" << std::endl;
        return;
    }
    const auto a100 = *find_gpu("a100");
    const auto h200 = *find_gpu("h200");
    OperatorTables others;
    add_rest(others, "a100_vllm0.14");
    OperatorTables measured;
    REQUIRE(measured.add_gemm(text_of("h200_vllm0.24_gemm"), "h200"));
    OperatorTables predicted = measured;
    add_rest(measured, "h200_vllm0.24");
    predicted.borrow(others, h200, a100);

    for (const auto& [is_large, tensor] : {std::pair(false, 1u), {true, 4u}, {true, 8u}}) {
        CAPTURE(is_large, tensor);
        const scheduler::planner::Split split{.tensor = tensor, .pipeline = 1};
        const StepTimes known = times_of_gpu(h200, measured, llama(is_large), split);
        const StepTimes guessed = times_of_gpu(h200, predicted, llama(is_large), split);
        const Off worst = off(known, guessed);
        std::cout << (is_large ? "70B" : "8B") << " over " << tensor << ": prompts within " << worst.prompts
                  << ", decoding within " << worst.decoding << std::endl;
        const auto attention = std::find_if(guessed.sources.begin(), guessed.sources.end(),
                                            [](const auto& source) { return source.what == "attention of prompts"; });
        REQUIRE(attention != guessed.sources.end());
        CHECK(attention->from.find("a100_vllm0.14, as the datasheets of both have it on h200") != std::string::npos);
    }
}

TEST_CASE("what a GPU's own tables have is not borrowed", "[scheduler][planner]") {
    const std::string head = "batch_size,isl,num_heads,num_key_value_heads,head_dim,latency_ms\n";
    OperatorTables own;
    REQUIRE(own.add_context_attention(head + "1,16,32,8,128,1\n1,32,32,8,128,2\n", "own"));
    OperatorTables others;
    REQUIRE(others.add_context_attention(head + "1,16,32,8,128,9\n1,16,64,8,128,1\n1,32,64,8,128,3\n", "others"));
    own.borrow(others, *find_gpu("h200"), *find_gpu("a100"));
    CHECK(own.context_attention({32, 8, 128})->table.at(32) == Approx(2e-3));
    // 1 ms that stays, and 2 ms on a GPU of 312 in place of 989 teraflops.
    CHECK(own.context_attention({64, 8, 128})->table.at(32) == Approx(1e-3 + 2e-3 * 312 / 989));
    CHECK(own.gemm() == nullptr);
}
