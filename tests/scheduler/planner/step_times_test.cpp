#include "scheduler/planner/step_times.h"

#include "scheduler/planner/profile_tables.h"

#include "tests/support/catch.h"

using scheduler::planner::Model;
using scheduler::planner::PromptChunk;
using scheduler::planner::StepTimes;
using scheduler::planner::times_of_profile;

namespace {

Model two_layers() {
    Model model;
    model.shape.layers = 2;
    model.shape.hidden = 500'000;
    return model;
}

constexpr const char* kDense =
    "layer,tokens,time_us\nembedding,1,1\nembedding,100,1\nqkv_proj,1,10\nqkv_proj,100,109\n"
    "layernorm,1,3\nlayernorm,100,3\nfinal_layernorm,1,4\n";
constexpr const char* kHeads = "layer,sequences,time_us\nlm_head,1,50\nlm_head,3,70\nsampler,1,5\n";
constexpr const char* kAttention =
    "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
    "10,0,0,0,20\n20,0,0,0,30\n10,100,0,0,25\n20,100,0,0,35\n"
    "0,0,1,100,8\n0,0,2,100,12\n0,0,1,200,10\n0,0,2,200,16\n"
    "10,0,1,100,40\n20,0,1,100,60\n10,0,2,100,44\n20,0,2,100,64\n";

}  // namespace

TEST_CASE("a step is the sum of what its tables say", "[scheduler][planner]") {
    const auto times = times_of_profile({.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads},
                                        two_layers(), 1, {});
    REQUIRE(times);
    // One sequence that decodes: embedding 1, final norm 4, two layers of 10 + 2 * 3 + 8, head 50 + 5.
    REQUIRE(times->seconds({.prompts = {}, .decode_sequences = 1, .decode_context = 100, .sampled = 1}) ==
            Approx((1 + 4 + 2 * (10 + 6 + 8) + 55) * 1e-6));
    // A chunk of 20 whose prompt goes on: nothing is sampled.
    const PromptChunk chunk[] = {{20, 100}};
    REQUIRE(times->seconds({.prompts = chunk}) == Approx((1 + 4 + 2 * (29 + 6 + 35)) * 1e-6));
    // Both in one step are not the sum of both: the table has them together.
    const PromptChunk with[] = {{20, 0}};
    REQUIRE(times->seconds({.prompts = with, .decode_sequences = 2, .decode_context = 200, .sampled = 2}) ==
            Approx((1 + 4 + 2 * (31 + 6 + 64) + 60 + 5) * 1e-6));
    // Two prompts in one kernel: the second costs what it adds to the launch (10 tokens, the smallest: 20 us).
    const PromptChunk two[] = {{20, 0}, {20, 0}};
    REQUIRE(times->seconds({.prompts = two}) == Approx((1 + 4 + 2 * (49 + 6 + 30 + 10)) * 1e-6));
}

TEST_CASE("steps that decode the same sequences in a row take what each of them does", "[scheduler][planner]") {
    const auto tables = times_of_profile(
        {.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads}, two_layers(), 1, {});
    REQUIRE(tables);
    StepTimes with_host = *tables;
    with_host.step_seconds = 1e-3;
    with_host.sequence_seconds = 3e-5;
    StepTimes fitted = with_host;
    fitted.fitted = scheduler::planner::FittedForms{
        .prefill = {1e-2, 1e-4, 1e-8}, .decode_small = {1e-3, 1e-7, 4e-4}, .decode_large = {}, .large_from = 1e9};
    for (const StepTimes& times : {*tables, with_host, fitted}) {
        for (const double sequences : {1.0, 2.0, 3.0, 7.0}) {
            double seconds[200];
            times.decode_seconds(sequences, 30 * sequences + 1, seconds);
            for (int step = 0; step < 200; ++step) {
                const double context = 30 * sequences + 1 + step * sequences;
                CAPTURE(sequences, step);
                REQUIRE(seconds[step] ==  // to the last bit
                        times.seconds({.prompts = {},
                                       .decode_sequences = sequences,
                                       .decode_context = context,
                                       .sampled = sequences}));
            }
        }
    }
}

TEST_CASE("points that lie on no grid are refused, not multiplied out", "[scheduler][planner]") {
    std::string attention = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n1,0,0,0,1\n0,0,1,1,1\n";
    for (int i = 1; i <= 100; ++i) {
        const std::string n = std::to_string(i);
        attention += n + "," + n + "," + n + "," + n + ",1\n";
    }
    const auto wrong = times_of_profile({.name = "t", .dense = kDense, .attention = attention, .per_sequence = kHeads},
                                        two_layers(), 1, {});
    REQUIRE(wrong.error().message.find("t_attention: its points lie on no grid") == 0);
}

TEST_CASE("rows of several tokens a sequence are for speculative decoding", "[scheduler][planner]") {
    const auto times =
        times_of_profile({.name = "t",
                          .dense = kDense,
                          .attention = "prefill_chunk,kv_prefill,n_decode,kv_decode,decode_q_len,time_us\n"
                                       "10,0,0,0,1,20\n0,0,1,100,1,8\n0,0,1,100,4,900\n",
                          .per_sequence = kHeads},
                         two_layers(), 1, {});
    REQUIRE(times);
    REQUIRE(times->decode.at(std::array{1.0, 100.0}) == Approx(2 * 8e-6));
}

TEST_CASE("over several GPUs a layer pays for two all-reduces", "[scheduler][planner]") {
    const auto one = times_of_profile({.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads},
                                      two_layers(), 1, {});
    const auto two = times_of_profile({.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads},
                                      two_layers(), 2, {.bytes_per_second = 1e9, .latency_seconds = 1e-5});
    REQUIRE(one);
    REQUIRE(two);
    // 1 MB of activations for one token: 1 ms for the ring, and the latency.
    REQUIRE(two->tokens.at(1) - one->tokens.at(1) == Approx(2 * 2 * (1e-3 + 1e-5)));
}

TEST_CASE("experts are looked up at as many as a batch touches", "[scheduler][planner]") {
    Model model = two_layers();
    model.experts = 4;
    model.experts_per_token = 1;
    const char* const moe = "ep,tokens,activated_experts,time_us\n1,1,1,100\n1,100,1,150\n1,100,4,400\n2,1,1,7\n";
    const auto times = times_of_profile(
        {.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads, .moe = moe}, model, 1, {});
    REQUIRE(times);
    REQUIRE(times->tokens.at(1) == Approx((1 + 4 + 2 * (10 + 6 + 100)) * 1e-6));
    REQUIRE(times->tokens.at(100) == Approx((1 + 4 + 2 * (109 + 6 + 400)) * 1e-6));
    REQUIRE_FALSE(times_of_profile({.name = "t", .dense = kDense, .attention = kAttention, .per_sequence = kHeads},
                                   model, 1, {}));
}

TEST_CASE("a profile that cannot be used says which table is wrong", "[scheduler][planner]") {
    const auto wrong = times_of_profile({.name = "t", .dense = "layer,time_us\n", .attention = "", .per_sequence = ""},
                                        two_layers(), 1, {});
    REQUIRE(wrong.error().message == "t_dense: no column `tokens`; there are layer, time_us");
    const auto half = times_of_profile({.name = "t",
                                        .dense = kDense,
                                        .attention = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n1,0,0,0,1\n",
                                        .per_sequence = kHeads},
                                       two_layers(), 1, {});
    REQUIRE(half.error().message.find("t_attention: needs rows") == 0);
}

TEST_CASE("DistServe's fitted forms take chunks and mixed steps", "[scheduler][planner]") {
    StepTimes times;
    times.fitted = {
        .prefill = {1, 0.1, 0.01}, .decode_small = {2, 0.001, 0.1}, .decode_large = {3, 0.002, 0.2}, .large_from = 95};
    times.step_seconds = 0.5;
    const PromptChunk whole[] = {{30, 0}};
    const PromptChunk first[] = {{10, 0}};
    const PromptChunk second[] = {{20, 10}};
    const double both = times.seconds({.prompts = first}) + times.seconds({.prompts = second});
    REQUIRE(both - times.seconds({.prompts = whole}) == Approx(1.5));  // one more step, the same work
    REQUIRE(times.seconds({.prompts = {}, .decode_sequences = 94, .decode_context = 1000}) ==
            Approx(0.5 + 2 + 1 + 9.4));
    REQUIRE(times.seconds({.prompts = {}, .decode_sequences = 95, .decode_context = 1000}) == Approx(0.5 + 3 + 2 + 19));
    REQUIRE(times.seconds({.prompts = whole, .decode_sequences = 2, .decode_context = 100}) ==
            Approx(times.seconds({.prompts = whole}) + 0.1 + 0.2));
}
