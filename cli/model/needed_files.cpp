#include "cli/model/needed_files.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <iterator>
#include <map>
#include <utility>

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::uint32_t kSplits = 1000;  // files of one split model

constexpr std::array<std::string_view, 19> kFolderFiles = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
};

bool ends_in(std::string_view path, std::string_view suffix) {
    if (path.size() < suffix.size()) { return false; }
    return std::equal(
        suffix.begin(), suffix.end(), path.end() - static_cast<std::ptrdiff_t>(suffix.size()),
        [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b); });
}

/// "model-00002-of-00003.gguf" taken apart.
struct Split {
    std::string stem;  // "model"
    std::uint32_t number = 1;
    std::uint32_t count = 1;
};

Split split_of(std::string_view path, std::string_view suffix) {
    const std::string_view stem = path.substr(0, path.size() - suffix.size());
    constexpr std::size_t kTail = std::string_view("-00002-of-00003").size();
    Split whole{std::string(stem)};
    if (stem.size() <= kTail) { return whole; }
    const std::string_view tail = stem.substr(stem.size() - kTail);
    if (tail[0] != '-' || tail.substr(6, 4) != "-of-") { return whole; }
    Split split;
    for (const auto& [digits, value] :
         {std::pair(tail.substr(1, 5), &split.number), {tail.substr(10, 5), &split.count}}) {
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *value);
        if (error != std::errc() || end != digits.data() + digits.size()) { return whole; }
    }
    if (split.number < 1 || split.number > split.count || split.count > kSplits) { return whole; }
    split.stem = stem.substr(0, stem.size() - kTail);
    return split;
}

/// Files of one model each, by stem and number of splits, in order.
std::map<std::pair<std::string, std::uint32_t>, std::vector<std::string>> groups_of(
    const std::vector<std::string>& paths, std::string_view suffix) {
    std::map<std::pair<std::string, std::uint32_t>, std::vector<std::string>> groups;
    for (const std::string& path : paths) {
        if (!ends_in(path, suffix)) { continue; }
        const Split split = split_of(path, suffix);
        groups[{split.stem, split.count}].push_back(path);
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
    if (!is_gguf(wanted)) {
        return base::fail(ErrorCode::invalid_argument,
                          "a single file of a model is a GGUF file, '" + std::string(wanted) + "' is none");
    }
    if (std::find(paths.begin(), paths.end(), wanted) == paths.end()) {
        std::vector<std::string> there;
        std::copy_if(paths.begin(), paths.end(), std::back_inserter(there),
                     [](const auto& path) { return is_gguf(path); });
        return base::fail(ErrorCode::not_found, "there is no file '" + std::string(wanted) + "'" +
                                                    (there.empty() ? "" : "; there are" + choices(there)));
    }
    const Split split = split_of(wanted, ".gguf");
    const auto groups = groups_of(paths, ".gguf");
    return complete({split.stem, split.count}, groups.at({split.stem, split.count}));
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

bool is_gguf(std::string_view path) {
    return ends_in(path, ".gguf");
}

std::string gguf_stem(std::string_view path) {
    return split_of(path, ".gguf").stem;
}

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
    const auto groups = groups_of(paths, ".gguf");
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
            if (ends_in(path, pickle)) {
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
    const auto groups = groups_of(paths, ".gguf");
    if (groups.size() == 1) { return groups.begin()->second.front(); }
    if (groups.empty() && std::find(paths.begin(), paths.end(), "config.json") != paths.end()) { return std::string(); }
    return base::fail(ErrorCode::failed_precondition, "the files make up neither one GGUF model nor a model folder");
}

}  // namespace cli::model
