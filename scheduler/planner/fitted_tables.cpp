#include "scheduler/planner/fitted_tables.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "scheduler/planner/json_read.h"

namespace scheduler::planner {
namespace {

constexpr const char* kDistserve = "DistServe's profile";
constexpr const char* kBench = "bench engine's file";

base::Result<FittedForms::Form> read_form(const boost::json::value& at, const char* name) {
    const boost::json::value* found = find_value(at, name);
    if (found == nullptr || !found->is_array() || found->get_array().size() != 3) {
        return base::fail(base::ErrorCode::invalid_argument,
                          std::string(kDistserve) + ": `" + name + "` has to be three numbers");
    }
    FittedForms::Form form{};
    for (std::size_t i = 0; i < 3; ++i) {
        boost::system::error_code error;
        form[i] = found->get_array()[i].to_number<double>(error);
        if (error) {
            return base::fail(base::ErrorCode::invalid_argument,
                              std::string(kDistserve) + ": `" + name + "` has to be three numbers");
        }
    }
    return form;
}

std::string names_of(const boost::json::value& object) {
    std::string names;
    if (object.is_object()) {
        for (const auto& [name, value] : object.get_object()) {
            names += (names.empty() ? "" : ", ") + std::string(name);
        }
    }
    return names.empty() ? "nothing" : names;
}

struct Point {
    double x;
    double seconds;
};

double relative_squares(const std::array<double, 2>& line, const std::vector<Point>& points) {
    double sum = 0;
    for (const Point& point : points) {
        const double off = (line[0] + line[1] * point.x) / point.seconds - 1;
        sum += off * off;
    }
    return sum;
}

/// seconds ~ a + b * x with a, b >= 0, by least squares on relative errors; one point: a share of both.
std::array<double, 2> fit_line(const std::vector<Point>& points) {
    double w = 0, wx = 0, wxx = 0, wy = 0, wxy = 0;
    for (const Point& point : points) {
        const double weight = 1 / (point.seconds * point.seconds);
        w += weight;
        wx += weight * point.x;
        wxx += weight * point.x * point.x;
        wy += weight * point.seconds;
        wxy += weight * point.x * point.seconds;
    }
    const double determinant = w * wxx - wx * wx;
    if (determinant > 1e-12 * w * wxx) {
        const double b = (w * wxy - wx * wy) / determinant;
        const double a = (wy - b * wx) / w;
        if (a >= 0 && b >= 0) { return {a, b}; }
    }
    const double through_zero = wxy / wxx;
    const double flat = wy / w;
    if (relative_squares({0, through_zero}, points) <= relative_squares({flat, 0}, points)) {
        return {0, through_zero};
    }
    return {flat, 0};
}

/// seconds ~ a + b * x + c * x^2 with a, b, c >= 0 in the same way, where there are three points that say so; else a
/// line.
FittedForms::Form fit_square(const std::vector<Point>& points) {
    const auto [a, b] = fit_line(points);
    if (points.size() < 3) { return {a, b, 0}; }
    const double scale = std::max_element(points.begin(), points.end(), [](auto& l, auto& r) { return l.x < r.x; })->x;
    std::array<double, 5> powers{};  // sums of x^n over squared seconds, x in parts of the longest
    std::array<double, 3> sums{};    // the same, times seconds
    for (const Point& point : points) {
        double weight = 1 / (point.seconds * point.seconds);
        for (std::size_t n = 0; n < powers.size(); ++n, weight *= point.x / scale) {
            powers[n] += weight;
            if (n < sums.size()) { sums[n] += weight * point.seconds; }
        }
    }
    using Column = std::array<double, 3>;
    const auto determinant = [](const Column& l, const Column& m, const Column& r) {
        return l[0] * (m[1] * r[2] - m[2] * r[1]) - m[0] * (l[1] * r[2] - l[2] * r[1]) +
               r[0] * (l[1] * m[2] - l[2] * m[1]);
    };
    const Column one{powers[0], powers[1], powers[2]};
    const Column linear{powers[1], powers[2], powers[3]};
    const Column square{powers[2], powers[3], powers[4]};
    const double all = determinant(one, linear, square);
    if (!(all > 1e-12 * powers[0] * powers[2] * powers[4])) { return {a, b, 0}; }
    const FittedForms::Form form{determinant(sums, linear, square) / all, determinant(one, sums, square) / all / scale,
                                 determinant(one, linear, sums) / all / (scale * scale)};
    const bool is_one = std::all_of(form.begin(), form.end(), [](double value) { return value >= 0; });
    return is_one ? form : FittedForms::Form{a, b, 0};
}

/// A line for the small ones and one for the large ones, from `large_from` on.
struct Lines {
    std::array<double, 2> small{};
    std::array<double, 2> large{};
    double large_from = 0;
};

/// What one line may be off, root mean square as a ratio, before a second one is looked for: less is noise.
constexpr double kOneLineOff = 0.01;

/// Two lines where they leave less than half of the squares that one does, and do not fall from one to the other.
Lines fit_lines(std::vector<Point> points) {
    std::sort(points.begin(), points.end(), [](const Point& l, const Point& r) { return l.x < r.x; });
    const auto one = fit_line(points);
    Lines best{one, one, 0};
    double least = relative_squares(one, points) / 2;
    if (2 * least <= kOneLineOff * kOneLineOff * static_cast<double>(points.size())) { return best; }
    for (std::size_t split = 2; split + 2 <= points.size(); ++split) {
        const std::vector<Point> below(points.begin(), points.begin() + static_cast<std::ptrdiff_t>(split));
        const std::vector<Point> above(points.begin() + static_cast<std::ptrdiff_t>(split), points.end());
        const Lines lines{fit_line(below), fit_line(above), above.front().x};
        const double squares = relative_squares(lines.small, below) + relative_squares(lines.large, above);
        const bool falls =
            lines.large[0] + lines.large[1] * lines.large_from < lines.small[0] + lines.small[1] * below.back().x;
        if (falls || squares >= least) { continue; }
        best = lines;
        least = squares;
    }
    return best;
}

base::Result<std::vector<Point>> read_points(const boost::json::value& json, const char* list, const char* x) {
    const boost::json::value* found = find_value(json, list);
    std::vector<Point> points;
    if (found != nullptr && found->is_array()) {
        for (const boost::json::value& figure : found->get_array()) {
            const auto at = number_at(figure, x, {}, 1, 1e9, kBench);
            const auto seconds = number_at(figure, "median_s", {}, 1e-9, 1e6, kBench);
            if (!at) { return base::pass_on(at); }
            if (!seconds) { return base::pass_on(seconds); }
            points.push_back({*at, *seconds});
        }
    }
    if (points.empty()) {
        return base::fail(
            base::ErrorCode::invalid_argument,
            std::string(kBench) + ": no figures in `" + list +
                "`; make it with `sluice bench engine --model DIR --out FILE`, prompts and batches included");
    }
    return points;
}

}  // namespace

base::Result<FittedForms> read_fitted_forms(std::string_view text, const std::string& model, std::uint32_t tensor) {
    const auto json = parse_json(text, kDistserve);
    if (!json) { return base::pass_on(json); }
    const boost::json::value* of_model = json->is_object() ? json->get_object().if_contains(model) : nullptr;
    if (of_model == nullptr) {
        return base::fail(base::ErrorCode::not_found,
                          std::string(kDistserve) + " has no model " + model + "; it has " + names_of(*json));
    }
    const boost::json::value* at = find_value(*of_model, std::to_string(tensor));
    if (at == nullptr) {
        return base::fail(base::ErrorCode::not_found, std::string(kDistserve) + " has no tensor split " +
                                                          std::to_string(tensor) + " of " + model + "; it has " +
                                                          names_of(*of_model));
    }
    FittedForms forms;
    const auto from = number_at(*at, "decoding_large_small_bs_threshold", {}, 0, 1e9, kDistserve);
    if (!from) { return base::pass_on(from); }
    forms.large_from = *from;
    struct Part {
        const char* name;
        FittedForms::Form* into;
    };
    for (const Part& part : {Part{"prefill", &forms.prefill}, Part{"decoding_smallbs", &forms.decode_small},
                             Part{"decoding_largebs", &forms.decode_large}}) {
        const auto form = read_form(*at, part.name);
        if (!form) { return base::pass_on(form); }
        *part.into = *form;
    }
    return forms;
}

base::Result<StepTimes> times_of_fitted(std::string_view text, const std::string& model, std::uint32_t tensor) {
    auto forms = read_fitted_forms(text, model, tensor);
    if (!forms) { return base::pass_on(forms); }
    for (auto* form : {&forms->prefill, &forms->decode_small, &forms->decode_large}) {
        for (double& coefficient : *form) {
            coefficient *= 1e-3;
        }
    }
    StepTimes times;
    times.fitted = *forms;
    times.sources = {
        {"whole steps", "fitted: DistServe's profile, " + model + ", tensor split " + std::to_string(tensor)}};
    return times;
}

base::Result<StepTimes> times_of_bench(std::string_view text, double kv_bytes_per_token) {
    const auto json = parse_json(text, kBench);
    if (!json) { return base::pass_on(json); }
    const auto prefill = read_points(*json, "prefill", "tokens");
    if (!prefill) { return base::pass_on(prefill); }
    const auto decode = read_points(*json, "decode", "batch");
    if (!decode) { return base::pass_on(decode); }
    const auto& figures = json->at("decode").get_array();
    const auto bytes = number_at(figures[figures.size() - 1], "bytes_per_s", {}, 1, 1e15, kBench);
    if (!bytes) { return base::pass_on(bytes); }
    const double context_seconds = kv_bytes_per_token / *bytes;
    // Without what their context cost, so that it is not counted twice.
    std::vector<Point> bare;
    for (std::size_t i = 0; i < decode->size(); ++i) {
        const auto context = number_at(figures[i], "context_tokens", 0.0, 0, 1e9, kBench);
        if (!context) { return base::pass_on(context); }
        const double of_context = context_seconds * *context * (*decode)[i].x;
        bare.push_back({(*decode)[i].x, std::max((*decode)[i].seconds * 0.1, (*decode)[i].seconds - of_context)});
    }
    const Lines lines = fit_lines(std::move(bare));
    StepTimes times;
    FittedForms forms;
    forms.prefill = fit_square(*prefill);
    forms.decode_small = {lines.small[0], context_seconds, lines.small[1]};
    forms.decode_large = {lines.large[0], context_seconds, lines.large[1]};
    forms.large_from = lines.large_from;
    times.fitted = forms;
    times.sources = {{"whole steps", "measured: sluice bench engine, " + text_at(*json, "engine", "engine not named")}};
    return times;
}

MeasuredMachine machine_of_bench(std::string_view text) {
    const auto json = parse_json(text, kBench);
    const auto count = [&](const char* name) {
        const auto number = json ? number_at(*json, name, 0.0, 0, 4096, kBench) : base::Result<double>(0);
        return number ? static_cast<std::uint32_t>(*number) : 0;
    };
    const auto share = [&](const char* name) {
        const auto number =
            json ? number_at(*json, std::string("beside.") + name, 0.0, 0, 100, kBench) : base::Result<double>(0);
        return number ? *number : 0;
    };
    return {.threads = count("threads"),
            .cores = count("cores"),
            .beside = {.prefill_by_prefill = share("prefill_by_prefill"),
                       .prefill_by_decode = share("prefill_by_decode"),
                       .decode_by_prefill = share("decode_by_prefill"),
                       .decode_by_decode = share("decode_by_decode")}};
}

}  // namespace scheduler::planner
