#include "scheduler/planner/curve.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"

namespace scheduler::planner {
namespace {

/// Pool adjacent violators: the non-decreasing sequence closest to `values` in least squares with `weights`.
void make_isotonic(std::vector<double>& values, const std::vector<double>& weights) {
    struct Pool {
        double mean;
        double weight;
        std::size_t count;
    };
    std::vector<Pool> pools;
    for (std::size_t i = 0; i < values.size(); ++i) {
        pools.push_back({values[i], weights[i], 1});
        while (pools.size() > 1 && pools[pools.size() - 2].mean > pools.back().mean) {
            const Pool last = pools.back();
            pools.pop_back();
            Pool& before = pools.back();
            before.mean = (before.mean * before.weight + last.mean * last.weight) / (before.weight + last.weight);
            before.weight += last.weight;
            before.count += last.count;
        }
    }
    std::size_t i = 0;
    for (const Pool& pool : pools) {
        for (std::size_t k = 0; k < pool.count; ++k) {
            values[i++] = pool.mean;
        }
    }
}

/// Points below one value of the first axis of several: as a tree, until the last axis, which is a curve.
struct Ragged {
    std::map<double, Ragged> children;
    std::vector<Curve::Sample> leaf;  // at the last axis

    void sort() {
        std::sort(leaf.begin(), leaf.end(), [](const auto& a, const auto& b) { return a.x < b.x; });
        for (auto& [x, child] : children) {
            child.sort();
        }
    }
    double at(std::span<const double> where) const {
        const auto between = [&](double x0, double y0, double x1, double y1) {
            return x1 == x0 ? y0 : std::max(0.0, y0 + (y1 - y0) * (where[0] - x0) / (x1 - x0));
        };
        if (where.size() == 1) {
            if (leaf.size() == 1) { return leaf[0].y; }
            const auto above = std::upper_bound(leaf.begin(), leaf.end(), where[0],
                                                [](double x, const Curve::Sample& sample) { return x < sample.x; });
            const std::size_t high = static_cast<std::size_t>(
                std::clamp<std::ptrdiff_t>(above - leaf.begin(), 1, static_cast<std::ptrdiff_t>(leaf.size()) - 1));
            return between(leaf[high - 1].x, leaf[high - 1].y, leaf[high].x, leaf[high].y);
        }
        auto above = children.upper_bound(where[0]);
        if (above == children.end()) { --above; }
        if (above == children.begin()) { return above->second.at(where.subspan(1)); }
        const auto below = std::prev(above);
        if (below->first == where[0]) { return below->second.at(where.subspan(1)); }
        return between(below->first, below->second.at(where.subspan(1)), above->first,
                       above->second.at(where.subspan(1)));
    }
};

}  // namespace

Curve::Curve(std::vector<Sample> samples) {
    std::sort(samples.begin(), samples.end(), [](const Sample& a, const Sample& b) { return a.x < b.x; });
    std::vector<double> weights;
    for (const Sample& sample : samples) {
        CHECK(std::isfinite(sample.x) && std::isfinite(sample.y) && sample.y >= 0, sample.x << ", " << sample.y);
        if (!samples_.empty() && samples_.back().x == sample.x) {
            samples_.back().y += (sample.y - samples_.back().y) / (weights.back() + 1);
            weights.back() += 1;
        } else {
            samples_.push_back(sample);
            weights.push_back(1);
        }
    }
    std::vector<double> values;
    for (const Sample& sample : samples_) {
        values.push_back(sample.y);
    }
    make_isotonic(values, weights);
    for (std::size_t i = 0; i < values.size(); ++i) {
        samples_[i].y = values[i];
    }
    if (samples_.size() > 1) {
        const Sample& last = samples_.back();
        const auto half = std::lower_bound(samples_.begin(), samples_.end() - 1, last.x / 2,
                                           [](const Sample& sample, double x) { return sample.x < x; });
        const Sample& from = half == samples_.end() - 1 ? *(half - 1) : *half;
        slope_beyond_ = (last.y - from.y) / (last.x - from.x);
    }
}

double Curve::at(double x) const {
    if (samples_.empty()) { return 0; }
    if (x <= samples_.front().x) { return samples_.front().y; }
    if (x >= samples_.back().x) { return samples_.back().y + slope_beyond_ * (x - samples_.back().x); }
    const auto above = std::upper_bound(samples_.begin(), samples_.end(), x,
                                        [](double value, const Sample& sample) { return value < sample.x; });
    const Sample& low = *(above - 1);
    return low.y + (above->y - low.y) * (x - low.x) / (above->x - low.x);
}

Grid::Grid(std::size_t axes, const std::vector<Point>& points) {
    CHECK(axes >= 1 && axes <= kAxesMax, axes);
    if (points.empty()) { return; }
    axes_.resize(axes);
    Ragged ragged;
    for (const Point& point : points) {
        CHECK(std::isfinite(point.value) && point.value >= 0, point.value);
        Ragged* node = &ragged;
        for (std::size_t axis = 0; axis < axes; ++axis) {
            CHECK(std::isfinite(point.at[axis]));
            axes_[axis].push_back(point.at[axis]);
            if (axis + 1 < axes) { node = &node->children[point.at[axis]]; }
        }
        node->leaf.push_back({point.at[axes - 1], point.value});
    }
    ragged.sort();
    std::size_t size = 1;
    for (auto& axis : axes_) {
        std::sort(axis.begin(), axis.end());
        axis.erase(std::unique(axis.begin(), axis.end()), axis.end());
        size *= axis.size();
    }
    values_.resize(size);
    std::array<double, kAxesMax> where{};
    for (std::size_t i = 0; i < size; ++i) {
        std::size_t rest = i;
        for (std::size_t axis = axes; axis-- > 0;) {
            where[axis] = axes_[axis][rest % axes_[axis].size()];
            rest /= axes_[axis].size();
        }
        values_[i] = ragged.at(std::span(where).first(axes));
    }
    for (std::size_t axis = axes, stride = 1; axis-- > 0; stride *= axes_[axis].size()) {
        for (std::size_t i = 0; i < size; ++i) {
            if ((i / stride) % axes_[axis].size() > 0) { values_[i] = std::max(values_[i], values_[i - stride]); }
        }
    }
    growth_beyond_.resize(axes);
    for (std::size_t axis = axes, stride = 1; axis-- > 0; stride *= axes_[axis].size()) {
        const auto& at = axes_[axis];
        if (at.size() < 2 || values_.back() <= 0) { continue; }
        const double slope = (values_.back() - values_[size - 1 - stride]) / (at.back() - at[at.size() - 2]);
        growth_beyond_[axis] = slope / values_.back();
    }
}

double Grid::corner(std::span<const std::size_t> index) const {
    std::size_t place = 0;
    for (std::size_t axis = 0; axis < index.size(); ++axis) {
        place = place * axes_[axis].size() + index[axis];
    }
    return values_[place];
}

Grid::Place Grid::place_of(std::size_t axis, double value) const {
    const std::vector<double>& points = axes_[axis];
    if (points.size() == 1 || value <= points.front()) { return {}; }
    const double inside = std::min(value, points.back());
    const auto above = std::upper_bound(points.begin(), points.end() - 1, inside);
    const auto low = static_cast<std::size_t>(above - points.begin()) - 1;
    return {.low = low,
            .share = (inside - points[low]) / (points[low + 1] - points[low]),
            .growth = 1 + growth_beyond_[axis] * (value - inside)};
}

/// at() of two axes: the sum of the same terms in the same order.
double Grid::at_two(double first, double second) const {
    const Place row = place_of(0, first);
    const Place column = place_of(1, second);
    const double* const corners = values_.data() + row.low * axes_[1].size() + column.low;
    const std::size_t below = row.share > 0 ? axes_[1].size() : 0;
    const std::size_t beside = column.share > 0 ? 1 : 0;
    double sum = (1 - row.share) * (1 - column.share) * corners[0];
    sum += row.share * (1 - column.share) * corners[below];
    sum += (1 - row.share) * column.share * corners[beside];
    sum += row.share * column.share * corners[below + beside];
    return std::max(0.0, sum) * (row.growth * column.growth);
}

double Grid::at(std::span<const double> where) const {
    if (values_.empty()) { return 0; }
    CHECK(where.size() == axes_.size(), where.size());
    if (axes_.size() == 2) { return at_two(where[0], where[1]); }
    std::array<std::size_t, kAxesMax> low{};
    std::array<double, kAxesMax> share{};
    double growth = 1;
    for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
        const Place place = place_of(axis, where[axis]);
        low[axis] = place.low;
        share[axis] = place.share;
        growth *= place.growth;
    }
    double sum = 0;
    std::array<std::size_t, kAxesMax> index{};
    for (unsigned bits = 0; bits < 1u << axes_.size(); ++bits) {
        double weight = 1;
        for (std::size_t axis = 0; axis < axes_.size(); ++axis) {
            const bool is_high = (bits >> axis & 1u) != 0;
            weight *= is_high ? share[axis] : 1 - share[axis];
            index[axis] = low[axis] + (is_high ? 1 : 0);
        }
        if (weight != 0) { sum += weight * corner(std::span(index).first(axes_.size())); }
    }
    return std::max(0.0, sum) * growth;
}

}  // namespace scheduler::planner
