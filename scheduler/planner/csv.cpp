#include "scheduler/planner/csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace scheduler::planner {
namespace {

std::string_view take_line(std::string_view& text) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (!line.empty() && line.back() == '\r') { line.remove_suffix(1); }
    return line;
}

std::size_t split(std::string_view line, std::vector<std::string_view>& fields) {
    std::size_t count = 0;
    while (true) {
        const std::size_t comma = line.find(',');
        fields.push_back(line.substr(0, comma));
        ++count;
        if (comma == std::string_view::npos) { return count; }
        line.remove_prefix(comma + 1);
    }
}

}  // namespace

base::Result<Csv> Csv::parse(std::string_view text, std::string name) {
    Csv csv;
    csv.name_ = std::move(name);
    const std::string_view header = take_line(text);
    if (header.empty()) {
        return base::fail(base::ErrorCode::invalid_argument, csv.name_ + ": no header row; is this a CSV file?");
    }
    csv.width_ = split(header, csv.header_);
    for (std::size_t line = 2; !text.empty(); ++line) {
        const std::string_view row = take_line(text);
        if (row.empty()) { continue; }
        if (csv.rows() == kRowsMax) {
            return base::fail(base::ErrorCode::invalid_argument,
                              csv.name_ + ": more than " + std::to_string(kRowsMax) + " rows");
        }
        if (const std::size_t count = split(row, csv.fields_); count != csv.width_) {
            return base::fail(base::ErrorCode::invalid_argument,
                              csv.name_ + ", line " + std::to_string(line) + ": " + std::to_string(count) +
                                  " fields where the header has " + std::to_string(csv.width_));
        }
    }
    return csv;
}

bool Csv::has(std::string_view name) const {
    return std::find(header_.begin(), header_.end(), name) != header_.end();
}

base::Result<std::size_t> Csv::column(std::string_view name) const {
    const auto found = std::find(header_.begin(), header_.end(), name);
    if (found != header_.end()) { return static_cast<std::size_t>(found - header_.begin()); }
    std::string names;
    for (const std::string_view column : header_) {
        names += (names.empty() ? "" : ", ") + std::string(column);
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      name_ + ": no column `" + std::string(name) + "`; there are " + names);
}

base::Result<std::vector<std::size_t>> Csv::columns(std::initializer_list<std::string_view> names) const {
    std::vector<std::size_t> found;
    for (const std::string_view name : names) {
        const auto index = column(name);
        if (!index) { return base::pass_on(index); }
        found.push_back(*index);
    }
    return found;
}

base::Result<double> Csv::number(std::size_t row, std::size_t column) const {
    const std::string_view field = text(row, column);
    double value = 0;
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
    if (error != std::errc() || end != field.data() + field.size() || !std::isfinite(value) || value < 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          name_ + ", row " + std::to_string(row + 1) + ": `" + std::string(header_[column]) +
                              "` is \"" + std::string(field.substr(0, 40)) + "\", which is no number of at least 0");
    }
    return value;
}

base::Result<std::vector<double>> Csv::numbers(std::size_t row, const std::vector<std::size_t>& columns) const {
    std::vector<double> values;
    values.reserve(columns.size());
    for (const std::size_t column : columns) {
        const auto value = number(row, column);
        if (!value) { return base::pass_on(value); }
        values.push_back(*value);
    }
    return values;
}

}  // namespace scheduler::planner
