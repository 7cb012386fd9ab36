#include "scheduler/planner/profile_tables.h"

#include <algorithm>
#include <map>
#include <set>

#include "scheduler/planner/csv.h"
#include "scheduler/planner/make_grid.h"

namespace scheduler::planner {
namespace {

constexpr double kMicro = 1e-6;
using Curves = std::map<std::string, Curve, std::less<>>;

/// `layer`, `key`, time_us as one curve for each layer.
base::Result<Curves> read_curves(std::string_view text, const std::string& name, std::string_view key) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto layer = csv->column("layer");
    if (!layer) { return base::pass_on(layer); }
    const auto columns = csv->columns({key, "time_us"});
    if (!columns) { return base::pass_on(columns); }
    std::map<std::string, std::vector<Curve::Sample>, std::less<>> samples;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        samples[std::string(csv->text(row, *layer))].push_back({(*numbers)[0], (*numbers)[1] * kMicro});
    }
    if (samples.empty()) { return base::fail(base::ErrorCode::invalid_argument, name + ": no rows"); }
    Curves curves;
    for (auto& [layer_name, points] : samples) {
        curves.emplace(layer_name, Curve(std::move(points)));
    }
    return curves;
}

struct Attention {
    std::vector<Grid::Point> prefill;
    std::vector<Grid::Point> decode;
    std::vector<Grid::Point> mixed;
};

base::Result<Attention> read_attention(std::string_view text, const std::string& name, double layers) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns = csv->columns({"prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"});
    if (!columns) { return base::pass_on(columns); }
    Attention attention;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        // Newer profiles also measure several tokens of one sequence at once, for speculative decoding.
        if (csv->has("decode_q_len") && csv->text(row, *csv->column("decode_q_len")) != "1") { continue; }
        const double chunk = (*numbers)[0];
        const double before = (*numbers)[1];
        const double sequences = (*numbers)[2];
        const double context = (*numbers)[3];
        const double seconds = (*numbers)[4] * kMicro * layers;
        if (chunk > 0 && sequences > 0) {
            attention.mixed.push_back({{chunk, sequences, before, context}, seconds});
        } else if (chunk > 0) {
            attention.prefill.push_back({{chunk, before}, seconds});
        } else if (sequences > 0) {
            attention.decode.push_back({{sequences, context}, seconds});
        }
    }
    if (attention.prefill.empty() || attention.decode.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          name + ": needs rows of prefill alone (n_decode 0) and of decode alone (prefill_chunk 0)");
    }
    return attention;
}

/// Seconds of the experts of one layer over tokens of the step: the table's rows nearest to as many experts as such a
/// batch touches.
base::Result<Curve> read_experts(std::string_view text, const std::string& name, const Model& model) {
    const auto csv = Csv::parse(text, name);
    if (!csv) { return base::pass_on(csv); }
    const auto columns = csv->columns({"tokens", "activated_experts", "time_us"});
    if (!columns) { return base::pass_on(columns); }
    std::vector<Grid::Point> points;
    std::set<double> tokens;
    for (std::size_t row = 0; row < csv->rows(); ++row) {
        const auto numbers = csv->numbers(row, *columns);
        if (!numbers) { return base::pass_on(numbers); }
        if (csv->has("ep") && csv->text(row, *csv->column("ep")) != "1") { continue; }
        points.push_back({{(*numbers)[0], (*numbers)[1]}, (*numbers)[2] * kMicro});
        tokens.insert((*numbers)[0]);
    }
    if (points.empty()) { return base::fail(base::ErrorCode::invalid_argument, name + ": no rows"); }
    const auto grid = make_grid(2, points, name);
    if (!grid) { return base::pass_on(grid); }
    std::vector<Curve::Sample> samples;
    for (const double count : tokens) {
        samples.push_back({count, grid->at(std::array{count, model.experts_touched(count)})});
    }
    return Curve(std::move(samples));
}

}  // namespace

double all_reduce_seconds(const Link& link, double bytes, double ranks) {
    if (ranks <= 1) { return 0; }
    return link.latency_seconds + 2 * (ranks - 1) / ranks * bytes / link.bytes_per_second;
}

base::Result<StepTimes> times_of_profile(const ProfileText& text, const Model& model, std::uint32_t tensor,
                                         const Link& link) {
    const double layers = model.shape.layers;
    const auto dense = read_curves(text.dense, text.name + "_dense", "tokens");
    if (!dense) { return base::pass_on(dense); }
    const auto heads = read_curves(text.per_sequence, text.name + "_per_sequence", "sequences");
    if (!heads) { return base::pass_on(heads); }
    const auto attention = read_attention(text.attention, text.name + "_attention", layers);
    if (!attention) { return base::pass_on(attention); }
    Curve experts;
    if (!text.moe.empty()) {
        auto read = read_experts(text.moe, text.name + "_moe", model);
        if (!read) { return base::pass_on(read); }
        experts = std::move(*read);
    } else if (model.is_moe()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "a model with experts needs " + text.name + "_moe.csv or .csv.gz, which is not there");
    }

    StepTimes times;
    std::set<double> counts;
    for (const auto& [name, curve] : *dense) {
        for (const Curve::Sample& sample : curve.samples()) {
            counts.insert(sample.x);
        }
    }
    std::vector<Curve::Sample> samples;
    for (const double tokens : counts) {
        double layer = experts.at(tokens);
        double once = 0;
        for (const auto& [name, curve] : *dense) {
            if (name == "embedding" || name == "final_layernorm") {
                once += curve.at(tokens);
            } else {
                layer += curve.at(tokens) * (name == "layernorm" ? 2 : 1);
            }
        }
        layer += 2 * all_reduce_seconds(link, tokens * model.shape.hidden * 2, tensor);
        samples.push_back({tokens, layers * layer + once});
    }
    times.tokens = Curve(std::move(samples));
    counts.clear();
    samples.clear();
    for (const auto& [name, curve] : *heads) {
        for (const Curve::Sample& sample : curve.samples()) {
            counts.insert(sample.x);
        }
    }
    for (const double sequences : counts) {
        double sum = 0;
        for (const auto& [name, curve] : *heads) {
            sum += curve.at(sequences);
        }
        samples.push_back({sequences, sum});
    }
    times.sampled = Curve(std::move(samples));
    struct Part {
        Grid* into;
        std::size_t axes;
        const std::vector<Grid::Point>* points;
    };
    for (const Part& part : {Part{&times.prefill, 2, &attention->prefill}, Part{&times.decode, 2, &attention->decode},
                             Part{&times.mixed, 4, &attention->mixed}}) {
        auto grid = make_grid(part.axes, *part.points, text.name + "_attention");
        if (!grid) { return base::pass_on(grid); }
        *part.into = std::move(*grid);
    }
    times.sources = {{"matrices, norms, activations", "measured: " + text.name + "_dense"},
                     {"attention", "measured: " + text.name + "_attention"},
                     {"head, sampler", "measured: " + text.name + "_per_sequence"}};
    if (model.is_moe()) { times.sources.push_back({"experts", "measured: " + text.name + "_moe"}); }
    if (tensor > 1) { times.sources.push_back({"all-reduce", "ring over the machine file's link"}); }
    return times;
}

}  // namespace scheduler::planner
