#pragma once

#include <string>
#include <string_view>

namespace cli {

/// What endpoint pickers of inference gateways (Gateway API Inference Extension, llm-d) read of a model server, by
/// vLLM's names: requests that wait and that run, and the share of KV memory in use (0 to 1), of each model. Made of
/// the text that /metrics of the same process gives; with several workers of a model in it, the sum, and of the share
/// the mean.
std::string vllm_names(std::string_view metrics_text);

}  // namespace cli
