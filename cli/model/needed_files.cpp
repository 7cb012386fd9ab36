#include "cli/model/needed_files.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

#include "base/split_name.h"

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::array kFolderFiles = std::to_array<std::string_view>({
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/default.jinja",
    "additional_chat_templates/tool_use.jinja",
    "adapter_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
});

/// A file of a model: its stem and into how many it is split.
std::pair<std::string, std::uint32_t> group_of(std::string_view path, std::string_view suffix) {
    if (auto split = base::split_name(path, suffix)) { return {std::move(split->stem), split->count}; }
    return {std::string(path.substr(0, path.size() - suffix.size())), 1};
}

/// Files of one model each, by stem and number of splits, in order.
std::map<std::pair<std::string, std::uint32_t>, std::vector<std::string>> groups_of(
    const std::vector<std::string>& paths, std::string_view suffix) {
    std::map<std::pair<std::string, std::uint32_t>, std::vector<std::string>> groups;
    for (const std::string& path : paths) {
        if (base::has_suffix(path, suffix)) { groups[group_of(path, suffix)].push_back(path); }
    }
    for (auto& [key, files] : groups) {
        std::sort(files.begin(), files.end());
    }
    return groups;
}

Result<std::vector<std::string>> complete(const std::pair<std::string, std::uint32_t>& key,
                                          const std::vector<std::string>& files) {
    if (files.size() != key.second) {
        return base::fail(ErrorCode::not_found, key.first + " has " + std::to_string(key.second) + " files, of which " +
                                                    std::to_string(files.size()) + " are there");
    }
    return files;
}

std::string choices(const std::vector<std::string>& paths) {
    constexpr std::size_t kShown = 20;
    std::string text;
    for (std::size_t i = 0; i < std::min(paths.size(), kShown); ++i) {
        text += "\n  " + paths[i];
    }
    if (paths.size() > kShown) { text += "\n  and " + std::to_string(paths.size() - kShown) + " more"; }
    return text;
}

Result<std::vector<std::string>> one_gguf(const std::vector<std::string>& paths, std::string_view wanted) {
    if (!base::has_suffix(wanted, base::kGgufSuffix)) {
        return base::fail(ErrorCode::invalid_argument,
                          "a single file of a model is a GGUF file, '" + std::string(wanted) + "' is none");
    }
    if (std::find(paths.begin(), paths.end(), wanted) == paths.end()) {
        std::vector<std::string> there;
        std::copy_if(paths.begin(), paths.end(), std::back_inserter(there),
                     [](const auto& path) { return base::has_suffix(path, base::kGgufSuffix); });
        return base::fail(ErrorCode::not_found, "there is no file '" + std::string(wanted) + "'" +
                                                    (there.empty() ? "" : "; there are" + choices(there)));
    }
    const auto group = group_of(wanted, base::kGgufSuffix);
    const auto groups = groups_of(paths, base::kGgufSuffix);
    return complete(group, groups.at(group));
}

/// The safetensors of a folder: model.safetensors, or its shards with their index.
std::vector<std::string> folder_weights(const std::vector<std::string>& paths) {
    const auto has = [&](std::string_view path) { return std::find(paths.begin(), paths.end(), path) != paths.end(); };
    if (has("model.safetensors")) { return {"model.safetensors"}; }
    if (!has("model.safetensors.index.json")) { return {}; }
    const auto groups = groups_of(paths, ".safetensors");
    for (const auto& [key, files] : groups) {
        if (key.first == "model" && files.size() == key.second) {
            std::vector<std::string> weights = files;
            weights.push_back("model.safetensors.index.json");
            return weights;
        }
    }
    return {};
}

}  // namespace

Result<std::vector<std::string>> needed_files(const std::vector<std::string>& paths, std::string_view wanted) {
    if (!wanted.empty()) { return one_gguf(paths, wanted); }
    const bool has_config = std::find(paths.begin(), paths.end(), "config.json") != paths.end();
    const std::vector<std::string> weights = folder_weights(paths);
    if (has_config && !weights.empty()) {
        std::vector<std::string> needed;
        std::copy_if(paths.begin(), paths.end(), std::back_inserter(needed), [](const std::string& path) {
            return std::find(kFolderFiles.begin(), kFolderFiles.end(), path) != kFolderFiles.end();
        });
        needed.insert(needed.end(), weights.begin(), weights.end());
        std::sort(needed.begin(), needed.end());
        return needed;
    }
    const auto groups = groups_of(paths, base::kGgufSuffix);
    if (groups.size() == 1) { return complete(groups.begin()->first, groups.begin()->second); }
    if (groups.size() > 1) {
        std::vector<std::string> firsts;
        for (const auto& [key, files] : groups) {
            firsts.push_back(files.front());
        }
        return base::fail(ErrorCode::not_found, "there are several GGUF files, name one of" + choices(firsts));
    }
    for (const std::string& path : paths) {
        for (const std::string_view pickle : {".bin", ".pt", ".pth", ".ckpt", ".pkl"}) {
            if (base::has_suffix(path, pickle)) {
                return base::fail(ErrorCode::failed_precondition,
                                  "the weights are only there as " + path +
                                      ", a pickle that runs code when it is read; Sluice takes safetensors and GGUF");
            }
        }
    }
    return base::fail(ErrorCode::not_found,
                      "no model is there: neither config.json with model.safetensors nor a GGUF file");
}

Result<std::string> entry_of(const std::vector<std::string>& paths) {
    const auto groups = groups_of(paths, base::kGgufSuffix);
    if (groups.size() == 1) { return groups.begin()->second.front(); }
    if (groups.empty() && std::find(paths.begin(), paths.end(), "config.json") != paths.end()) { return std::string(); }
    return base::fail(ErrorCode::failed_precondition, "the files make up neither one GGUF model nor a model folder");
}

}  // namespace cli::model
