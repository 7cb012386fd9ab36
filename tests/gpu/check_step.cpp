#include <algorithm>
#include <numeric>

#include "bench/gpu/synthetic_step.h"
#include "tests/gpu/harness.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;
using gpu_bench::Products;
using gpu_bench::SyntheticModel;

using Rows = std::vector<std::int32_t>;

std::vector<float> logits_of(const SyntheticModel& model, std::int32_t rows) {
    GPU_REQUIRE(cudaDeviceSynchronize());
    std::vector<float> logits(static_cast<std::size_t>(rows) * static_cast<std::size_t>(model.shape().vocabulary));
    GPU_REQUIRE(cudaMemcpy(logits.data(), model.logits(), logits.size() * sizeof(float), cudaMemcpyDeviceToHost));
    return logits;
}

/// Prefills tokens [position, position + count) of a sequence.
void prefill(SyntheticModel& model, const Rows& prompt, std::int32_t sequence, std::int32_t position,
             std::int32_t count) {
    Rows tokens;
    Rows positions;
    for (std::int32_t i = 0; i < count; ++i) {
        tokens.push_back(prompt[static_cast<std::size_t>(position + i)]);
        positions.push_back(position + i);
    }
    const std::int32_t tile = cuda::prefill_tile_tokens(model.shape().heads_q, model.shape().heads_kv);
    std::vector<cuda::PrefillTile> tiles;
    for (std::int32_t r = 0; r < count; r += tile) {
        tiles.push_back({r, std::min(tile, count - r), position + r, sequence});
    }
    GPU_REQUIRE(model.set_rows(tokens, Rows(tokens.size(), sequence), positions));
    GPU_REQUIRE(model.set_tiles(tiles));
    GPU_REQUIRE(model.prefill(count, gpu_bench::Operator::attention_prefill, nullptr));
    GPU_REQUIRE(cudaDeviceSynchronize());
}

}  // namespace

namespace {

/// FP8 weights: prefill, decode and a recorded decode step of the same token.
void check_fp8_step(Checks& checks, cuda::MatmulLibrary& library, SyntheticModel::Options options) {
    cudaDeviceProp properties;
    GPU_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    if (properties.major * 10 + properties.minor < 89) {
        checks.note(true, "step in FP8: compute capability below 8.9; not checked");
        return;
    }
    options.fp8 = true;
    options.products = Products::fixed_order;
    cudaError_t error = cudaSuccess;
    const auto model = SyntheticModel::make(options, library, &error);
    checks.note(model != nullptr, "step in FP8: model", cudaGetErrorString(error));
    if (model == nullptr) { return; }
    Rows prompt(130);
    for (std::int32_t& token : prompt) {
        token = random_int(checks, 0, options.shape.vocabulary - 1);
    }
    prefill(*model, prompt, 0, 0, 130);
    const std::vector<float> whole = logits_of(*model, 1);
    const bool finite = std::all_of(whole.begin(), whole.end(), [](float x) { return std::isfinite(x); });
    checks.note(finite, "step in FP8: logits are numbers");
    prefill(*model, prompt, 1, 0, 129);
    GPU_REQUIRE(model->set_rows({prompt[129]}, {1}, {129}));
    GPU_REQUIRE(model->decode(1, 320, nullptr));
    checks.note(logits_of(*model, 1) == whole, "step in FP8: decode gives the bits of prefill");
    // The library finds its algorithms in the first run; a graph repeats the second.
    model->set_products(Products::fastest);
    Rows sequences(24);
    std::iota(sequences.begin(), sequences.end(), 0);  // beyond 1 they have whatever the pool holds
    GPU_REQUIRE(model->set_rows(Rows(24, prompt[129]), sequences, Rows(24, 129)));
    GPU_REQUIRE(model->decode(24, 320, nullptr));
    const std::vector<float> first = logits_of(*model, 24);
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    GPU_REQUIRE(cudaStreamCreate(&stream));
    GPU_REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const cudaError_t captured = model->decode(24, 320, stream);
    GPU_REQUIRE(cudaStreamEndCapture(stream, &graph));
    checks.note(captured == cudaSuccess, "step in FP8: capture", cudaGetErrorString(captured));
    GPU_REQUIRE(cudaGraphInstantiate(&executable, graph, 0));
    GPU_REQUIRE(cudaGraphLaunch(executable, stream));
    GPU_REQUIRE(cudaStreamSynchronize(stream));
    checks.note(logits_of(*model, 24) == first, "step in FP8: replay gives the bits of the launches");
    GPU_REQUIRE(cudaGraphExecDestroy(executable));
    GPU_REQUIRE(cudaGraphDestroy(graph));
    GPU_REQUIRE(cudaStreamDestroy(stream));
}

}  // namespace

void check_step(Checks& checks) {
    cudaError_t error = cudaSuccess;
    const auto library = cuda::MatmulLibrary::make(std::size_t{32} << 20, &error);
    if (library == nullptr) {
        checks.note(false, "step: cuBLASLt", cudaGetErrorString(error));
        return;
    }
    SyntheticModel::Options options;
    options.shape = {.layers = 2,
                     .hidden = 256,
                     .intermediate = 448,
                     .heads_q = 8,
                     .heads_kv = 2,
                     .head_dim = 64,
                     .vocabulary = 1000};
    options.rows_max = 320;
    options.sequences = 40;
    options.context_tokens_max = 640;
    options.products = Products::fixed_order;
    check_fp8_step(checks, *library, options);
    const auto model = SyntheticModel::make(options, *library, &error);
    checks.note(model != nullptr, "step: model", cudaGetErrorString(error));
    if (model == nullptr) { return; }

    Rows prompt(600);
    for (std::int32_t& token : prompt) {
        token = random_int(checks, 0, options.shape.vocabulary - 1);
    }
    // The last token of 301 by prefill in one piece, in two, and by decode after 300: the same bits.
    prefill(*model, prompt, 0, 0, 301);
    const std::vector<float> whole = logits_of(*model, 1);
    const bool finite = std::all_of(whole.begin(), whole.end(), [](float x) { return std::isfinite(x); });
    checks.note(finite, "step: logits are numbers");
    prefill(*model, prompt, 1, 0, 150);
    prefill(*model, prompt, 1, 150, 151);
    checks.note(logits_of(*model, 1) == whole, "step: prefill in chunks gives the same bits");
    prefill(*model, prompt, 2, 0, 300);
    GPU_REQUIRE(model->set_rows({prompt[300]}, {2}, {300}));
    GPU_REQUIRE(model->decode(1, 320, nullptr));
    checks.note(logits_of(*model, 1) == whole, "step: decode gives the bits of prefill");

    // In a batch with others, and idle rows.
    Rows tokens;
    Rows sequence;
    Rows position;
    for (std::int32_t s = 3; s < 40; ++s) {
        const std::int32_t length = random_int(checks, 1, 300);
        prefill(*model, prompt, s, 0, length);
        tokens.push_back(prompt[static_cast<std::size_t>(length)]);
        sequence.push_back(s);
        position.push_back(length);
    }
    tokens[5] = prompt[300];
    sequence[5] = 2;
    position[5] = 300;
    tokens.insert(tokens.end(), 3, cuda::kIdleRow);
    sequence.insert(sequence.end(), 3, 0);
    position.insert(position.end(), 3, cuda::kIdleRow);
    const auto rows = static_cast<std::int32_t>(tokens.size());
    GPU_REQUIRE(model->set_rows(tokens, sequence, position));
    GPU_REQUIRE(model->decode(rows, 640, nullptr));
    const std::vector<float> batch = logits_of(*model, rows);
    const auto vocabulary = whole.size();
    checks.note(std::equal(whole.begin(), whole.end(), batch.begin() + static_cast<std::ptrdiff_t>(5 * vocabulary)),
                "step: a row in a batch gives the bits it gives alone");

    // As a graph: captured once, replayed with other rows in the same buffers. Both kinds of products.
    for (const Products products : {Products::fixed_order, Products::fastest}) {
        model->set_products(products);
        const std::string name = products == Products::fixed_order ? "fixed order" : "fastest";
        GPU_REQUIRE(model->decode(rows, 640, nullptr));
        const std::vector<float> first = logits_of(*model, rows);
        cudaStream_t stream = nullptr;
        GPU_REQUIRE(cudaStreamCreate(&stream));
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        GPU_REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        const cudaError_t captured = model->decode(rows, 640, stream);
        GPU_REQUIRE(cudaStreamEndCapture(stream, &graph));
        checks.note(captured == cudaSuccess, "step: capture, " + name, cudaGetErrorString(captured));
        GPU_REQUIRE(cudaGraphInstantiate(&executable, graph, 0));
        // Rows in reverse order: the same numbers, elsewhere.
        GPU_REQUIRE(model->set_rows({tokens.rbegin(), tokens.rend()}, {sequence.rbegin(), sequence.rend()},
                                    {position.rbegin(), position.rend()}));
        GPU_REQUIRE(cudaGraphLaunch(executable, stream));
        GPU_REQUIRE(cudaStreamSynchronize(stream));
        const std::vector<float> reversed = logits_of(*model, rows);
        GPU_REQUIRE(model->set_rows(tokens, sequence, position));
        GPU_REQUIRE(cudaGraphLaunch(executable, stream));
        GPU_REQUIRE(cudaStreamSynchronize(stream));
        const std::vector<float> again = logits_of(*model, rows);
        checks.note(again == first, "step: replay gives the bits of the launches, " + name);
        if (products == Products::fixed_order) {
            std::size_t wrong = 0;
            for (std::int32_t r = 0; r < rows; ++r) {
                const auto from = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) * vocabulary);
                const auto to = static_cast<std::ptrdiff_t>(static_cast<std::size_t>(rows - 1 - r) * vocabulary);
                wrong +=
                    std::equal(first.begin() + from, first.begin() + from + static_cast<std::ptrdiff_t>(vocabulary),
                               reversed.begin() + to)
                        ? 0u
                        : 1u;
            }
            checks.note(wrong == 0, "step: replay with other rows", std::to_string(wrong) + " rows differ");
        }
        GPU_REQUIRE(cudaGraphExecDestroy(executable));
        GPU_REQUIRE(cudaGraphDestroy(graph));
        GPU_REQUIRE(cudaStreamDestroy(stream));
    }
}

}  // namespace gpu_check
