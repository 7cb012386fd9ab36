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

struct DecodePoint {
    double batch;
    double context;  // tokens of each sequence
    double seconds;
};

base::Result<std::vector<DecodePoint>> read_decodes(const boost::json::value& json) {
    const auto points = read_points(json, "decode", "batch");
    if (!points) { return base::pass_on(points); }
    std::vector<DecodePoint> decodes;
    for (std::size_t i = 0; i < points->size(); ++i) {
        const auto context = number_at(json.at("decode").get_array()[i], "context_tokens", 0.0, 0, 1e9, kBench);
        if (!context) { return base::pass_on(context); }
        decodes.push_back({(*points)[i].x, *context, (*points)[i].seconds});
    }
    return decodes;
}

/// What a token of context costs a decode step: as steps of one batch with different contexts say, by least squares;
/// without such by the bytes that the last figure read each second, but no more than more sequences cost with theirs.
base::Result<double> context_seconds_of(const boost::json::value& json, const std::vector<DecodePoint>& decodes,
                                        double kv_bytes_per_token) {
    double products = 0;
    double squares = 0;
    for (const DecodePoint& one : decodes) {
        for (const DecodePoint& other : decodes) {
            if (one.batch != other.batch || one.context >= other.context) { continue; }
            const double tokens = one.batch * (other.context - one.context);
            products += tokens * (other.seconds - one.seconds);
            squares += tokens * tokens;
        }
    }
    if (squares > 0) { return std::max(0.0, products / squares); }
    const auto& figures = json.at("decode").get_array();
    const auto bytes = number_at(figures[figures.size() - 1], "bytes_per_s", {}, 1, 1e15, kBench);
    if (!bytes) { return base::pass_on(bytes); }
    double seconds = kv_bytes_per_token / *bytes;
    const auto least =
        std::min_element(decodes.begin(), decodes.end(), [](auto& l, auto& r) { return l.batch < r.batch; });
    for (const DecodePoint& point : decodes) {
        const double tokens = (point.batch - least->batch) * point.context;
        if (tokens > 0) { seconds = std::min(seconds, std::max(0.0, point.seconds - least->seconds) / tokens); }
    }
    return seconds;
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
    const auto decode = read_decodes(*json);
    if (!decode) { return base::pass_on(decode); }
    const auto context_seconds = context_seconds_of(*json, *decode, kv_bytes_per_token);
    if (!context_seconds) { return base::pass_on(context_seconds); }
    // Without what their context cost, so that it is not counted twice.
    std::vector<Point> bare;
    std::vector<Curve::Sample> batches;
    for (const DecodePoint& point : *decode) {
        const double of_context = *context_seconds * point.context * point.batch;
        bare.push_back({point.batch, std::max(point.seconds * 0.1, point.seconds - of_context)});
        batches.push_back({point.batch, bare.back().seconds});
    }
    const auto line = fit_line(bare);
    StepTimes times;
    FittedForms forms;
    forms.prefill = fit_square(*prefill);
    // What a step of decodes takes before its first sequence is no more than what the least one took.
    const double least =
        std::min_element(bare.begin(), bare.end(), [](auto& l, auto& r) { return l.seconds < r.seconds; })->seconds;
    forms.decode_small = {std::min(line[0], least), *context_seconds, line[1]};
    forms.decode_large = forms.decode_small;
    if (batches.size() > 1) { forms.batches = Curve(std::move(batches)); }
    times.fitted = std::move(forms);
    times.sources = {{"whole steps", "measured: sluice bench engine, " + text_at(*json, "engine", "engine not named")}};
    return times;
}

MeasuredMachine machine_of_bench(std::string_view text) {
    const auto json = parse_json(text, kBench);
    const auto count = [&](const char* name) {
        const auto number = json ? number_at(*json, name, 0.0, 0, 4096, kBench) : base::Result<double>(0);
        return number ? static_cast<std::uint32_t>(*number) : 0;
    };
    const auto number = [&](const std::string& name, double most) {
        const auto found = json ? number_at(*json, name, 0.0, 0, most, kBench) : base::Result<double>(0);
        return found ? *found : 0;
    };
    const auto share = [&](const char* name) { return number(std::string("beside.") + name, 100); };
    return {
        .threads = count("threads"),
        .cores = count("cores"),
        .beside = {.prefill_by_prefill = share("prefill_by_prefill"),
                   .prefill_by_decode = share("prefill_by_decode"),
                   .decode_by_prefill = share("decode_by_prefill"),
                   .decode_by_decode = share("decode_by_decode")},
        .host = {.step_seconds = number("host.step_s", 1), .handed_token_seconds = number("host.handed_token_s", 1)},
        .between_seconds = number("host.between_s", 1)};
}

}  // namespace scheduler::planner
