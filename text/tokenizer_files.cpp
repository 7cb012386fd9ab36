#include "text/tokenizer_files.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "text/file_bytes.h"
#include "text/json_file.h"
#include "text/shim/sluice_text.h"
#include "text/token_files.h"

namespace text {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

/// In the order in which they are preferred; the first file that is there is the tokenizer.
constexpr std::array kNames = {"tokenizer.json", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model",
                               "spiece.model",   "vocab.txt",  "vocab.jsonl"};
constexpr std::string_view kRankSuffix = ".tiktoken";

std::optional<fs::path> find_in_folder(const fs::path& folder) {
    std::error_code error;
    for (const char* name : kNames) {
        if (std::string_view(name) == "vocab.json" && !fs::is_regular_file(folder / "merges.txt", error)) { continue; }
        if (fs::is_regular_file(folder / name, error)) { return folder / name; }
    }
    std::vector<fs::path> ranks;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
        if (entry.path().extension() == kRankSuffix) { ranks.push_back(entry.path()); }
    }
    if (ranks.empty()) { return std::nullopt; }
    return *std::min_element(ranks.begin(), ranks.end());
}

/// Whether the file begins with a line "BASE64 NUMBER".
bool looks_like_ranks(std::string_view bytes) {
    const std::string_view line = bytes.substr(0, bytes.find('\n'));
    const std::size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || line.size() > 4096) { return false; }
    const auto is_base64 = [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '+' || c == '/' || c == '=';
    };
    const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || c == '\r'; };
    const std::string_view digits = line.substr(space + 1);
    return std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(space), is_base64) && !digits.empty() &&
           std::all_of(digits.begin(), digits.end(), is_digit);
}

base::Result<std::int32_t> recognise(const fs::path& path, std::string_view bytes) {
    const std::string name = path.filename().string();
    const std::string extension = path.extension().string();
    if (extension == ".jsonl") { return SLUICE_PIECE_LINES; }
    if (extension == ".json") { return name.find("vocab") == 0 ? SLUICE_VOCAB_AND_MERGES : SLUICE_HUGGING_FACE_JSON; }
    if (looks_like_ranks(bytes)) { return SLUICE_RANKS; }
    if (extension == ".model") { return SLUICE_SENTENCE_PIECE; }
    if (name == "merges.txt") { return SLUICE_VOCAB_AND_MERGES; }
    if (extension == ".txt") { return SLUICE_WORD_LIST; }
    return base::fail(base::ErrorCode::invalid_argument,
                      path.string() +
                          " is no tokenizer file of a known form (tokenizer.json, vocab.json, *.model, "
                          "*.tiktoken, *.txt, *.jsonl, *.gguf)");
}

/// What the files beside it say that the tokenizer file itself may not.
json::object options_of(const TokenFiles& beside, std::int32_t kind, const std::string& pattern) {
    const json::object& config = beside.config;
    json::object options;
    options["pattern"] = pattern;
    for (const auto& [from, to] : {std::pair("bos_token", "bos"), std::pair("eos_token", "eos")}) {
        if (const auto token = token_text(config, from)) { options[to] = *token; }
        for (const auto& [name, text] : beside.class_defaults) {
            if (name == from) { options[to] = text; }
        }
    }
    const auto copy_flag = [&](const char* from, const char* to) {
        const json::value* flag = config.if_contains(from);
        if (flag != nullptr && flag->is_bool()) { options[to] = *flag; }
    };
    copy_flag("do_lower_case", "lower_case");
    copy_flag("legacy", "legacy");
    const json::value* type = config.if_contains("tokenizer_class");
    const std::string_view type_name =
        type != nullptr && type->is_string() ? std::string_view(type->get_string()) : std::string_view();
    // Hugging Face rewrites the post-processor of these classes by the flags; elsewhere the file has the word.
    const bool is_rewritten =
        type_name.find("Llama") != std::string_view::npos || type_name.find("Gemma") != std::string_view::npos;
    if (kind != SLUICE_HUGGING_FACE_JSON || is_rewritten) {
        copy_flag("add_bos_token", "add_bos");
        copy_flag("add_eos_token", "add_eos");
    }
    options["added_tokens"] = beside.added_tokens;
    json::array special;
    for (const std::string& text : beside.special_texts()) {
        special.emplace_back(text);
    }
    options["special_texts"] = std::move(special);
    return options;
}

}  // namespace

base::Result<TokenizerFiles> find_tokenizer_files(const fs::path& path, const std::string& pattern,
                                                  std::size_t file_bytes_max) {
    std::error_code error;
    TokenizerFiles files;
    const bool is_folder = fs::is_directory(path, error);
    if (is_folder) {
        std::optional<fs::path> found = find_in_folder(path);
        if (!found) {
            const auto part = token_folder(path);
            if (!part) { return base::pass_on(part); }
            found = find_in_folder(*part);
        }
        if (!found) {
            std::string names;
            for (const char* name : kNames) {
                names += std::string(name) + ", ";
            }
            const bool is_tekken = fs::exists(path / "tekken.json", error);
            return base::fail(base::ErrorCode::not_found,
                              "no tokenizer in " + path.string() + ": looked for " + names + "*.tiktoken" +
                                  (is_tekken ? "; tekken.json, Mistral's own form, is not read" : ""));
        }
        files.path = *found;
    } else {
        files.path = path;
    }
    auto bytes = read_file(files.path, file_bytes_max);
    if (!bytes) { return base::pass_on(bytes); }
    files.first = std::move(*bytes);
    const auto kind = recognise(files.path, files.first);
    if (!kind) { return base::pass_on(kind); }
    files.kind = *kind;
    const fs::path folder = files.path.parent_path();
    if (files.kind == SLUICE_VOCAB_AND_MERGES) {
        if (files.path.filename() == "merges.txt") {
            auto vocabulary = read_file(folder / "vocab.json", file_bytes_max);
            if (!vocabulary) { return base::pass_on(vocabulary, "merges.txt needs vocab.json beside it"); }
            files.first = std::move(*vocabulary);
        }
        auto merges = read_file(folder / "merges.txt", file_bytes_max);
        if (!merges) { return base::pass_on(merges, "vocab.json needs merges.txt beside it"); }
        files.second = std::move(*merges);
    }
    const auto beside = read_token_files(folder, is_folder ? path : folder);
    if (!beside) { return base::pass_on(beside); }
    files.options_json = json::serialize(options_of(*beside, files.kind, pattern));
    return files;
}

}  // namespace text
