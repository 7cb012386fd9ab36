#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "scheduler/planner/operator_tables.h"
#include "scheduler/planner/reached.h"

namespace scheduler::planner {
namespace {

/// What a kernel takes with nothing to do stays, the rest goes with what the datasheets say.
double scaled(double seconds, double least, double ratio) {
    return least + (seconds - least) * ratio;
}

template <class Samples>
double least_of(const Samples& samples) {
    double least = std::numeric_limits<double>::max();
    for (const auto& sample : samples) {
        least = std::min(least, sample.y);
    }
    return least;
}

Curve scaled_curve(const Curve& curve, double ratio) {
    const double least = least_of(curve.samples());
    std::vector<Curve::Sample> samples;
    for (const Curve::Sample& sample : curve.samples()) {
        samples.push_back({sample.x, scaled(sample.y, least, ratio)});
    }
    return Curve(std::move(samples));
}

/// Half way, by ratio, between the other GPU's kernel on this one's memory and what kernels reach of a memory mostly:
/// where one GPU's kernel is poor the next one's need not be.
Grid scaled_decode(const Grid& grid, const OperatorTables::Heads& heads, const Gpu& own, const Gpu& other) {
    const double ratio = other.bytes_per_second / own.bytes_per_second;
    const double least = *std::min_element(grid.values().begin(), grid.values().end());
    std::vector<Grid::Point> points;
    std::size_t index = 0;
    for (const double sequences : grid.axis(0)) {
        for (const double context : grid.axis(1)) {
            const double bytes = 2.0 * heads.kv * heads.dim * context * sequences * 2;
            const double reached = bytes / (own.bytes_per_second * kMemoryShare) + kAttentionLaunchSeconds;
            const double seconds = std::sqrt(scaled(grid.values()[index++], least, ratio) * reached);
            points.push_back({{sequences, context}, seconds});
        }
    }
    return Grid(2, points);
}

/// The same of what goes over a node's links: switches that add up, too, do better than a ring that scales.
Curve scaled_all_reduce(const Curve& curve, double gpus, const Gpu& own, const Gpu& other) {
    const double ratio = other.node_link.bytes_per_second / own.node_link.bytes_per_second;
    const double least = least_of(curve.samples());
    std::vector<Curve::Sample> samples;
    for (const Curve::Sample& sample : curve.samples()) {
        const double ring = all_reduce_seconds({own.node_link.bytes_per_second, least}, sample.x, gpus);
        samples.push_back({sample.x, std::sqrt(scaled(sample.y, least, ratio) * ring)});
    }
    return Curve(std::move(samples));
}

std::string borrowed(const std::string& name, const Gpu& own) {
    return name + ", as the datasheets of both have it on " + own.name;
}

}  // namespace

void OperatorTables::borrow(const OperatorTables& others, const Gpu& own, const Gpu& other) {
    const double compute = other.flops / own.flops;
    for (const auto& [heads, table] : others.context_attention_) {
        if (context_attention_.contains(heads)) { continue; }
        context_attention_[heads] = {scaled_curve(table.table, compute), borrowed(table.name, own)};
    }
    for (const auto& [heads, table] : others.generation_attention_) {
        if (generation_attention_.contains(heads)) { continue; }
        generation_attention_[heads] = {scaled_decode(table.table, heads, own, other), borrowed(table.name, own)};
    }
    for (const auto& [gpus, table] : others.all_reduce_) {
        if (all_reduce_.contains(gpus)) { continue; }
        all_reduce_[gpus] = {scaled_all_reduce(table.table, gpus, own, other), borrowed(table.name, own)};
    }
}

}  // namespace scheduler::planner
