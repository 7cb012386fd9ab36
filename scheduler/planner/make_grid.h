#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "scheduler/planner/curve.h"

// Grids made of tables that people hand over. Internal to this folder.
namespace scheduler::planner {

/// A grid is full, so a table whose points share no values makes a huge one: so many cells are the most, 64 MB.
inline constexpr double kGridCellsMax = 8e6;

/// Error: invalid_argument, led by `name`, when the grid of these points would have more cells.
inline base::Result<Grid> make_grid(std::size_t axes, const std::vector<Grid::Point>& points, const std::string& name) {
    double cells = 1;
    for (std::size_t axis = 0; axis < axes; ++axis) {
        std::set<double> values;
        for (const Grid::Point& point : points) {
            values.insert(point.at[axis]);
        }
        cells *= static_cast<double>(values.size());
    }
    if (cells > kGridCellsMax) {
        return base::fail(base::ErrorCode::invalid_argument,
                          name + ": its points lie on no grid (" + std::to_string(cells) +
                              " cells, 8 million at most); measure at values that recur");
    }
    return Grid(axes, points);
}

}  // namespace scheduler::planner
