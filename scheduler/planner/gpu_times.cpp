#include <algorithm>
#include <array>
#include <vector>

#include "scheduler/planner/operator_tables.h"
#include "scheduler/planner/reached.h"

namespace scheduler::planner {
namespace {

constexpr std::array kTokens{1.,   2.,   4.,   8.,    16.,   24.,   32.,   48.,   64.,   96.,   128.,   192.,  256.,
                             384., 512., 768., 1024., 1536., 2048., 3072., 4096., 6144., 8192., 12288., 16384.};

class Operators {
public:
    Operators(const Gpu& gpu, const OperatorTables& tables, const Model& model, const Split& split)
        : gpu_(gpu), tables_(tables), model_(model), split_(split) {
        const std::uint32_t tensor = split.tensor;
        heads_ = {std::max(1u, model.shape.heads_q / tensor), std::max(1u, model.shape.heads_kv / tensor),
                  model.shape.head_dim};
        whole_layer_ = model.is_moe() ? nullptr
                                      : tables.model_operators({model.shape.hidden, model.shape.intermediate,
                                                                model.shape.heads_q, model.shape.heads_kv, tensor});
        context_ = tables.context_attention(heads_);
        generation_ = tables.generation_attention(heads_);
        all_reduce_ = tables.all_reduce(tensor);
    }

    double roofline(double flops, double bytes) const {
        return std::max(flops / (gpu_.flops * kProductShare), bytes / (gpu_.bytes_per_second * kMemoryShare));
    }

    double product(double m, double n, double k) const {
        if (tables_.gemm() != nullptr) { return tables_.gemm()->table.at(std::array{n, k, m}); }
        const double element = model_.weight_bits / 8.0;
        return roofline(2 * m * n * k, n * k * element + (m * k + m * n) * 2) + kLaunchSeconds;
    }

    double reduce(double tokens) const {
        if (split_.tensor == 1) { return 0; }
        const double bytes = tokens * model_.shape.hidden * 2;
        return all_reduce_ != nullptr ? all_reduce_->table.at(bytes)
                                      : all_reduce_seconds(gpu_.node_link, bytes, split_.tensor);
    }

    double experts(double tokens) const {
        const double touched = model_.experts_touched(tokens);
        const double weights = 3.0 * model_.shape.hidden * model_.expert_intermediate / split_.tensor;
        return roofline(2 * tokens * model_.experts_per_token * weights, touched * weights * model_.weight_bits / 8) +
               2 * kLaunchSeconds;
    }

    double layer(double tokens) const {
        if (whole_layer_ != nullptr) { return whole_layer_->table.at(tokens) + 2 * reduce(tokens); }
        const base::ModelShape& shape = model_.shape;
        const double tensor = split_.tensor;
        const double q = static_cast<double>(heads_.q) * heads_.dim;
        const double kv = static_cast<double>(heads_.kv) * heads_.dim;
        const double wide = shape.intermediate / tensor;
        double seconds = product(tokens, q + 2 * kv, shape.hidden) + product(tokens, shape.hidden, q);
        double activations = 12.0 * shape.hidden;
        if (model_.is_moe()) {
            seconds += experts(tokens);
        } else {
            seconds += product(tokens, model_.has_gated_mlp ? 2 * wide : wide, shape.hidden) +
                       product(tokens, shape.hidden, wide);
            activations += 3 * wide;
        }
        // Norms, rotation, activation: what they read and write.
        seconds += tokens * activations * 2 / (gpu_.bytes_per_second * kMemoryShare) + 4 * kLaunchSeconds;
        return seconds + 2 * reduce(tokens);
    }

    /// A prompt of `tokens` from its start, one layer.
    double prompt_attention(double tokens) const {
        if (context_ != nullptr) {
            const double last = context_->table.samples().back().x;
            if (tokens <= last) { return context_->table.at(tokens); }
            return context_->table.at(last) * (tokens / last) * (tokens / last);
        }
        const double flops = 2.0 * heads_.q * heads_.dim * tokens * tokens;
        return flops / (gpu_.flops * kAttentionShare) + kAttentionLaunchSeconds;
    }

    double chunk_attention(double tokens, double before) const {
        return std::max(prompt_attention(tokens), prompt_attention(before + tokens) - prompt_attention(before));
    }

    double decode_attention(double sequences, double context) const {
        if (generation_ != nullptr) { return generation_->table.at(std::array{sequences, context}); }
        const double bytes = 2.0 * heads_.kv * heads_.dim * context * sequences * model_.kv_bits / 8;
        return bytes / (gpu_.bytes_per_second * kMemoryShare) + kAttentionLaunchSeconds;
    }

    std::vector<Source> sources() const {
        const std::string sheet = "roofline: " + gpu_.name + "'s datasheet";
        const auto from = [&](const auto* table) { return table != nullptr ? "measured: " + table->name : sheet; };
        std::vector<Source> sources;
        if (whole_layer_ != nullptr) {
            sources.push_back({"matrices, norms, activations", from(whole_layer_)});
        } else {
            sources.push_back({"matrices", from(tables_.gemm())});
            sources.push_back({"norms, activations", sheet});
        }
        if (model_.is_moe()) { sources.push_back({"experts", sheet}); }
        sources.push_back({"attention of prompts", from(context_)});
        sources.push_back({"attention of decoding", from(generation_)});
        if (split_.tensor > 1) { sources.push_back({"all-reduce", from(all_reduce_)}); }
        return sources;
    }

private:
    const Gpu& gpu_;
    const OperatorTables& tables_;
    const Model& model_;
    const Split& split_;
    OperatorTables::Heads heads_;
    const OperatorTables::Named<Curve>* whole_layer_ = nullptr;
    const OperatorTables::Named<Curve>* context_ = nullptr;
    const OperatorTables::Named<Grid>* generation_ = nullptr;
    const OperatorTables::Named<Curve>* all_reduce_ = nullptr;
};

}  // namespace

StepTimes times_of_gpu(const Gpu& gpu, const OperatorTables& tables, const Model& model, const Split& split) {
    const Operators operators(gpu, tables, model, split);
    const double layers = model.shape.layers;
    StepTimes times;
    std::vector<Curve::Sample> tokens;
    std::vector<Curve::Sample> sampled;
    std::vector<Grid::Point> prefill{{{0, 0}, layers * operators.chunk_attention(1, 0)}};
    std::vector<Grid::Point> decode;
    // Activations go from stage to stage over the node's link.
    const auto hops = [&](double count) {
        return (split.pipeline - 1) *
               (gpu.node_link.latency_seconds + count * model.shape.hidden * 2 / gpu.node_link.bytes_per_second);
    };
    for (const double count : kTokens) {
        tokens.push_back({count, layers * operators.layer(count) + hops(count)});
        sampled.push_back({count, operators.product(count, static_cast<double>(model.shape.vocabulary) / split.tensor,
                                                    model.shape.hidden)});
        for (const double before : {0., 512., 1024., 2048., 4096., 8192., 16384., 32768., 65536., 131072.}) {
            prefill.push_back({{count, before}, layers * operators.chunk_attention(count, before)});
        }
        if (count > 2048) { continue; }
        for (const double context : {1., 128., 512., 1024., 2048., 4096., 8192., 16384., 32768., 65536., 131072.}) {
            decode.push_back({{count, context}, layers * operators.decode_attention(count, context)});
        }
    }
    times.tokens = Curve(std::move(tokens));
    times.sampled = Curve(std::move(sampled));
    times.prefill = Grid(2, prefill);
    times.decode = Grid(2, decode);
    times.sources = operators.sources();
    return times;
}

}  // namespace scheduler::planner
