#include "cli/vllm_names.h"

#include <fmt/format.h>

#include <map>

#include "base/log_limit.h"
#include "cli/metrics_text.h"

namespace cli {
namespace {

struct Alias {
    const char* ours;
    const char* theirs;
    const char* help;
    bool is_share;
};
constexpr Alias kAliases[] = {
    {"sluice_worker_requests_waiting", "vllm:num_requests_waiting", "Requests that wait", false},
    {"sluice_worker_requests_running", "vllm:num_requests_running", "Requests that run", false},
    {"sluice_worker_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "Share of KV memory in use, 1 is all", true},
};

std::string escaped(const std::string& value) {
    std::string text;
    for (const char c : value) {
        if (c == '\\' || c == '"') { text += '\\'; }
        if (c == '\n') {
            text += "\\n";
        } else {
            text += c;
        }
    }
    return text;
}

}  // namespace

std::string vllm_names(std::string_view metrics_text) {
    const auto samples = parse_metrics(metrics_text);
    if (!samples) {
        base::warn_limited("metrics by vLLM's names", "{}", samples.error().message);  // a bug: it is our own text
        return {};
    }
    std::string out;
    for (const Alias& alias : kAliases) {
        struct Sum {
            double value = 0;
            double workers = 0;
        };
        std::map<std::string, Sum> models;
        for (const Sample& sample : *samples) {
            if (sample.name != alias.ours) { continue; }
            Sum& sum = models[std::string(sample.label("model"))];
            sum.value += sample.value;
            sum.workers += 1;
        }
        if (models.empty()) { continue; }
        out += fmt::format("# HELP {0} {1}\n# TYPE {0} gauge\n", alias.theirs, alias.help);
        for (const auto& [model, sum] : models) {
            out += fmt::format("{}{{model_name=\"{}\"}} {}\n", alias.theirs, escaped(model),
                               alias.is_share ? sum.value / sum.workers : sum.value);
        }
    }
    // What one router needs besides: how long its blocks are, and how many there are at each engine.
    std::string infos;
    for (const Sample& sample : *samples) {
        if (sample.name != "sluice_worker_cache_config_info") { continue; }
        const auto label = [&sample](const std::string& name) { return escaped(std::string(sample.label(name))); };
        infos += fmt::format(
            "vllm:cache_config_info{{model_name=\"{}\",engine=\"{}\",block_size=\"{}\",num_gpu_blocks=\"{}\"}} 1\n",
            label("model"), label("worker"), label("block_size"), label("num_blocks"));
    }
    if (!infos.empty()) {
        out +=
            "# HELP vllm:cache_config_info Always 1; its labels are an engine's KV memory\n"
            "# TYPE vllm:cache_config_info gauge\n" +
            infos;
    }
    return out;
}

}  // namespace cli
