#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace scheduler::planner {

/// A measured time over one variable that can only grow with it: isotonic least squares through the samples (noise
/// that falls is averaged away), linear between them, the first value before the first, and beyond the last one the
/// slope of the upper half of the samples. Empty: 0 everywhere. Immutable.
class Curve {
public:
    struct Sample {
        double x = 0;
        double y = 0;
    };
    Curve() = default;
    /// In any order; several at one x count as their mean. x and y finite, y >= 0 (CHECK).
    explicit Curve(std::vector<Sample> samples);

    double at(double x) const;
    bool empty() const { return samples_.empty(); }
    const std::vector<Sample>& samples() const { return samples_; }

private:
    std::vector<Sample> samples_;  // ascending in both
    double slope_beyond_ = 0;
};

/// The same over up to four variables: a full grid made from measured points, which need not fill one. A hole is
/// filled along the last variable first, then along the one before it; then every value is raised to the highest
/// one at or below it in every variable. Multilinear between the points; below the first point of a variable as at
/// it, beyond its last in proportion to the slope of the last interval where all variables are largest. Immutable.
class Grid {
public:
    static constexpr std::size_t kAxesMax = 4;
    struct Point {
        std::array<double, kAxesMax> at{};  // the first `axes` count
        double value = 0;
    };
    Grid() = default;
    /// `axes` of 1 to kAxesMax; values finite and >= 0 (CHECK).
    Grid(std::size_t axes, const std::vector<Point>& points);

    /// As many coordinates as axes.
    double at(std::span<const double> where) const;
    bool empty() const { return values_.empty(); }
    std::size_t axes() const { return axes_.size(); }
    /// At all points, in the order of the axes, the last one fastest: a Grid made of them is this one.
    const std::vector<double>& values() const { return values_; }
    /// The values of an axis at which there are points, ascending.
    const std::vector<double>& axis(std::size_t index) const { return axes_[index]; }

private:
    /// Where a value lies on an axis: how far behind a point of it, and how much longer what is beyond the last one
    /// takes.
    struct Place {
        std::size_t low = 0;
        double share = 0;
        double growth = 1;
    };
    Place place_of(std::size_t axis, double value) const;
    double at_two(double first, double second) const;
    double corner(std::span<const std::size_t> index) const;

    std::vector<std::vector<double>> axes_;
    std::vector<double> values_;         // row-major in the order of the axes
    std::vector<double> growth_beyond_;  // of each axis: share for one more of its unit
};

}  // namespace scheduler::planner
