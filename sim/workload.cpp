#include "sim/workload.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <random>

#include "base/config.h"
#include "sim/percentile.h"

namespace sim {
namespace {

constexpr std::size_t kQuantiles = 41;

/// Of the engine's bits alone: the standard library's distributions differ between machines.
class Draw {
public:
    explicit Draw(std::uint64_t seed) : bits_(seed) {}
    /// In (0, 1).
    double uniform() { return (static_cast<double>(bits_() >> 11) + 0.5) / 9007199254740992.0; }
    double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * std::numbers::pi * uniform()); }
    /// Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000).
    double gamma(double shape) {
        if (shape < 1) { return gamma(shape + 1) * std::pow(uniform(), 1 / shape); }
        const double d = shape - 1.0 / 3;
        const double c = 1 / std::sqrt(9 * d);
        while (true) {
            const double x = normal();
            const double v = std::pow(1 + c * x, 3);
            if (v > 0 && std::log(uniform()) < x * x / 2 + d - d * v + d * std::log(v)) { return d * v; }
        }
    }
    std::size_t index(std::size_t count) {
        return std::min(count - 1, static_cast<std::size_t>(uniform() * static_cast<double>(count)));
    }

private:
    std::mt19937_64 bits_;
};

std::uint32_t at_least_one(double tokens) {
    return static_cast<std::uint32_t>(std::max(1.0, std::round(tokens)));
}

std::vector<double> quantiles(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    std::vector<double> result;
    for (std::size_t i = 0; i < kQuantiles; ++i) {
        result.push_back(percentile(values, static_cast<double>(i) / (kQuantiles - 1)));
    }
    return result;
}

}  // namespace

std::vector<ClusterRequest> draw_requests(const Workload& workload, double rate, std::size_t count,
                                          std::uint64_t seed) {
    Draw draw(seed);
    const double cv = workload.burstiness;
    std::vector<ClusterRequest> requests;
    requests.reserve(count);
    double at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        double gap = 1;
        if (cv >= 0.999 && cv <= 1.001) {
            gap = -std::log(draw.uniform());
        } else if (cv > 0.01) {
            gap = draw.gamma(1 / (cv * cv)) * cv * cv;
        }
        at += gap / rate;
        if (!workload.lengths.empty()) {
            const Workload::Lengths& lengths = workload.lengths[draw.index(workload.lengths.size())];
            requests.push_back({at, lengths.prompt_tokens, lengths.output_tokens});
        } else {
            const double prompt = percentile(workload.prompt_quantiles, draw.uniform());
            requests.push_back(
                {at, at_least_one(prompt), at_least_one(percentile(workload.output_quantiles, draw.uniform()))});
        }
    }
    return requests;
}

Workload workload_of(const std::vector<ClusterRequest>& requests, std::string name) {
    Workload workload;
    workload.name = std::move(name);
    std::vector<double> prompts;
    std::vector<double> outputs;
    double squares = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        workload.lengths.push_back({std::max(1u, requests[i].prompt_tokens), std::max(1u, requests[i].output_tokens)});
        prompts.push_back(workload.lengths.back().prompt_tokens);
        outputs.push_back(workload.lengths.back().output_tokens);
        if (i > 0) {
            const double gap = requests[i].arrival_s - requests[i - 1].arrival_s;
            squares += gap * gap;
        }
    }
    workload.prompt_quantiles = quantiles(std::move(prompts));
    workload.output_quantiles = quantiles(std::move(outputs));
    if (requests.size() > 2 && requests.back().arrival_s > requests.front().arrival_s) {
        const double gaps = static_cast<double>(requests.size() - 1);
        const double mean_gap = (requests.back().arrival_s - requests.front().arrival_s) / gaps;
        workload.rate = 1 / mean_gap;
        workload.burstiness = std::sqrt(std::max(0.0, squares / gaps - mean_gap * mean_gap)) / mean_gap;
    }
    return workload;
}

std::string fit_yaml(const Workload& workload) {
    const auto number = [](double value) {
        char text[32];
        const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::general, 6).ptr;
        return std::string(text, end);
    };
    const auto list = [&](const std::vector<double>& values) {
        std::string text;
        for (const double value : values) {
            text += (text.empty() ? "" : ", ") + number(value);
        }
        return "[" + text + "]\n";
    };
    return "# A workload for `sluice plan --workload`, made by `sluice plan fit`. Quantiles: equal shares of the "
           "requests\n"
           "# lie between neighbours; prompts and answers are drawn apart.\n"
           "rate: " +
           number(workload.rate) +
           "        # requests a second, as they came\nburstiness: " + number(workload.burstiness) +
           "  # standard deviation of the gaps by their mean: 1 is Poisson\nprompt_tokens: " +
           list(workload.prompt_quantiles) + "output_tokens: " + list(workload.output_quantiles);
}

base::Result<Workload> read_fit(std::string_view yaml, const std::string& name) {
    base::Config config;
    if (const auto added = config.add_text(yaml, name); !added) { return base::pass_on(added); }
    Workload workload;
    workload.name = name;
    workload.rate = config.number("rate", 0, 0, 1e6);
    workload.burstiness = config.number("burstiness", 1, 0, 100);
    struct Part {
        const char* key;
        std::vector<double>* into;
    };
    for (const Part& part :
         {Part{"prompt_tokens", &workload.prompt_quantiles}, Part{"output_tokens", &workload.output_quantiles}}) {
        for (const std::string& text : config.strings(part.key, {})) {
            double value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            if (error != std::errc() || end != text.data() + text.size() || !(value >= 0 && value <= 1e8) ||
                (!part.into->empty() && value < part.into->back())) {
                config.problem(part.key, "has to be a list of token counts, none less than the one before it");
                break;
            }
            part.into->push_back(value);
        }
        if (part.into->empty()) { config.problem(part.key, "is missing: at least one quantile is needed"); }
    }
    if (const auto done = config.finish(); !done) { return base::pass_on(done); }
    return workload;
}

WorkloadSize size_of(const Workload& workload) {
    WorkloadSize size;
    if (workload.lengths.empty()) {
        size.tokens_max = workload.prompt_quantiles.back() + workload.output_quantiles.back() + 2;
        size.prompt_mean = mean(workload.prompt_quantiles);
        size.output_mean = mean(workload.output_quantiles);
        return size;
    }
    for (const Workload::Lengths& lengths : workload.lengths) {
        const auto count = static_cast<double>(workload.lengths.size());
        size.tokens_max = std::max(size.tokens_max, static_cast<double>(lengths.prompt_tokens) + lengths.output_tokens);
        size.prompt_mean += lengths.prompt_tokens / count;
        size.output_mean += lengths.output_tokens / count;
    }
    return size;
}

}  // namespace sim
