#include "scheduler/planner/fitted_tables.h"

#include <algorithm>
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
    const auto error = [&](double a, double b) {
        double sum = 0;
        for (const Point& point : points) {
            const double off = (a + b * point.x) / point.seconds - 1;
            sum += off * off;
        }
        return sum;
    };
    if (error(0, through_zero) <= error(flat, 0)) { return {0, through_zero}; }
    return {flat, 0};
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
    const auto [prefill_step, token] = fit_line(*prefill);
    const auto [decode_step, sequence] = fit_line(bare);
    StepTimes times;
    FittedForms forms;
    forms.prefill = {prefill_step, token, 0};
    forms.decode_small = forms.decode_large = {decode_step, context_seconds, sequence};
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
