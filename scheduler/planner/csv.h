#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace scheduler::planner {

/// A table with a header row, columns by name. Borrows the text. Fields are not quoted.
class Csv {
public:
    static constexpr std::size_t kRowsMax = 2'000'000;

    /// Error: invalid_argument, led by `name`, for a text without header, a row that is longer or shorter than it, or
    /// too many rows.
    static base::Result<Csv> parse(std::string_view text, std::string name);

    /// Index of the column, for number() and text(). Error: invalid_argument that lists the columns there are.
    base::Result<std::size_t> column(std::string_view name) const;
    bool has(std::string_view name) const;

    std::size_t rows() const { return width_ == 0 ? 0 : fields_.size() / width_; }
    std::string_view text(std::size_t row, std::size_t column) const { return fields_[row * width_ + column]; }
    /// Error: invalid_argument with the line, for what is no finite number that is at least 0.
    base::Result<double> number(std::size_t row, std::size_t column) const;
    /// One row's numbers of several columns, in their order.
    base::Result<std::vector<double>> numbers(std::size_t row, const std::vector<std::size_t>& columns) const;
    /// Indices of several columns. Error: as column().
    base::Result<std::vector<std::size_t>> columns(std::initializer_list<std::string_view> names) const;

private:
    std::string name_;
    std::size_t width_ = 0;
    std::vector<std::string_view> header_;
    std::vector<std::string_view> fields_;
};

}  // namespace scheduler::planner
