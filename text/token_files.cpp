#include "text/token_files.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>

#include "text/file_bytes.h"
#include "text/json_file.h"

namespace text {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t kConfigBytesMax = std::size_t{16} << 20;

struct ClassDefaults {
    std::string_view class_part;  // of the tokenizer's class
    std::string_view model_type;  // of config.json, for folders that do not name a class
    std::string_view bos, eos, unk, sep, pad, cls, mask;
};
/// Source: the constructors of transformers' tokenizers (4.57).
constexpr std::array kClasses = {
    ClassDefaults{"Llama", "llama", "<s>", "</s>", "<unk>", "", "", "", ""},
    ClassDefaults{"Llama", "mistral", "<s>", "</s>", "<unk>", "", "", "", ""},
    ClassDefaults{"Qwen2", "qwen2", "", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""},
    ClassDefaults{"Qwen2", "qwen3", "", "<|endoftext|>", "<|endoftext|>", "", "<|endoftext|>", "", ""},
    ClassDefaults{"Gemma", "gemma", "<bos>", "<eos>", "<unk>", "", "<pad>", "", ""},
    ClassDefaults{"Gemma", "gemma2", "<bos>", "<eos>", "<unk>", "", "<pad>", "", ""},
    ClassDefaults{"GPT2", "gpt2", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""},
    ClassDefaults{"GPTNeoX", "gpt_neox", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "", "", "", ""},
    ClassDefaults{"Bert", "bert", "", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"},
    ClassDefaults{"XLMRoberta", "xlm-roberta", "<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
    ClassDefaults{"Roberta", "roberta", "<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"},
    ClassDefaults{"T5", "t5", "", "</s>", "<unk>", "", "<pad>", "", ""},
};

std::string string_in(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

/// What the class has where neither `config` nor anything else names the token; a name that is null there stays none.
std::vector<std::pair<std::string, std::string>> defaults_of(const json::object& config, const json::object& model) {
    const std::string class_name = string_in(config, "tokenizer_class");
    const std::string model_type = string_in(model, "model_type");
    const ClassDefaults* found = nullptr;
    for (const ClassDefaults& one : kClasses) {
        const bool is_it = class_name.empty() ? !model_type.empty() && one.model_type == model_type
                                              : class_name.find(one.class_part) != std::string::npos;
        if (is_it && found == nullptr) { found = &one; }
    }
    std::vector<std::pair<std::string, std::string>> defaults;
    if (found == nullptr) { return defaults; }
    for (const auto& [name, text] :
         {std::pair("bos_token", found->bos), std::pair("eos_token", found->eos), std::pair("unk_token", found->unk),
          std::pair("sep_token", found->sep), std::pair("pad_token", found->pad), std::pair("cls_token", found->cls),
          std::pair("mask_token", found->mask)}) {
        if (!text.empty() && !config.contains(name)) { defaults.emplace_back(name, std::string(text)); }
    }
    return defaults;
}

std::optional<std::uint32_t> id_of(std::string_view digits) {
    std::uint32_t id = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (error != std::errc() || end != digits.data() + digits.size()) { return std::nullopt; }
    return id;
}

/// `added_tokens_decoder` of tokenizer_config.json: id -> what the token is.
json::array tokens_of_decoder(const json::object& decoder) {
    json::array tokens;
    for (const auto& [key, token] : decoder) {
        const auto id = id_of({key.data(), key.size()});
        const json::object* fields = token.if_object();
        if (!id || fields == nullptr) { continue; }
        json::object row{{"id", *id}};
        for (const char* name : {"content", "special", "lstrip", "rstrip"}) {
            if (const json::value* value = fields->if_contains(name)) { row[name] = *value; }
        }
        tokens.push_back(std::move(row));
    }
    return tokens;
}

/// added_tokens.json: text -> id. Special are those that another file names as such; it may say more about them.
json::array tokens_of_list(const json::object& list, const json::object& config) {
    const auto described = [&](std::string_view text) -> const json::object* {
        for (const auto& [name, value] : config) {
            const json::array* several = value.if_array();
            const json::object* one = value.if_object();
            if (one != nullptr && string_in(*one, "content") == text) { return one; }
            for (std::size_t i = 0; several != nullptr && i < several->size(); ++i) {
                const json::object* inner = (*several)[i].if_object();
                if (inner != nullptr && string_in(*inner, "content") == text) { return inner; }
            }
        }
        return nullptr;
    };
    TokenFiles known;
    known.config = config;
    const std::vector<std::string> special = known.special_texts();
    json::array tokens;
    for (const auto& [key, id] : list) {
        const std::string text(key);
        if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > std::numeric_limits<std::int32_t>::max()) {
            continue;
        }
        json::object row{{"id", id}, {"content", text}};
        row["special"] = std::find(special.begin(), special.end(), text) != special.end();
        if (const json::object* more = described(text)) {
            for (const char* name : {"lstrip", "rstrip"}) {
                if (const json::value* value = more->if_contains(name)) { row[name] = *value; }
            }
        }
        tokens.push_back(std::move(row));
    }
    std::sort(tokens.begin(), tokens.end(),
              [](const json::value& a, const json::value& b) { return a.at("id").as_int64() < b.at("id").as_int64(); });
    return tokens;
}

}  // namespace

const std::vector<std::string> kSpecialTokenNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                     "pad_token", "cls_token", "mask_token"};

std::vector<std::string> TokenFiles::special_texts() const {
    std::vector<std::string> texts;
    for (const std::string& name : kSpecialTokenNames) {
        if (auto text = token_text(config, name)) { texts.push_back(std::move(*text)); }
    }
    for (const char* name : {"additional_special_tokens", "extra_special_tokens"}) {
        const json::value* value = config.if_contains(name);
        const auto add = [&](const json::value& one) {
            if (one.is_string()) { texts.emplace_back(one.get_string()); }
            if (one.is_object()) {
                if (auto text = string_in(one.get_object(), "content"); !text.empty()) { texts.push_back(text); }
            }
        };
        if (value != nullptr && value->is_array()) {
            for (const json::value& one : value->get_array()) {
                add(one);
            }
        } else if (value != nullptr && value->is_object()) {  // name -> token
            for (const auto& one : value->get_object()) {
                add(one.value());
            }
        }
    }
    return texts;
}

base::Result<json::object> read_optional_object(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(path, error)) { return json::object(); }
    return read_json_object(path, kConfigBytesMax);
}

base::Result<fs::path> token_folder(const fs::path& model_folder) {
    std::error_code error;
    const fs::path list = model_folder / "modules.json";
    if (!fs::exists(list, error)) { return model_folder; }
    const auto bytes = read_file(list, kConfigBytesMax);
    if (!bytes) { return base::pass_on(bytes); }
    boost::system::error_code parse_error;
    const json::value modules = json::parse(*bytes, parse_error);
    if (parse_error || !modules.is_array()) {
        return base::fail(base::ErrorCode::invalid_argument, list.string() + " is not a JSON list");
    }
    for (const json::value& module : modules.get_array()) {
        const json::object* fields = module.if_object();
        if (fields == nullptr || !string_in(*fields, "type").ends_with("Transformer")) { continue; }
        const fs::path part(string_in(*fields, "path"));
        if (part.empty()) { return model_folder; }
        if (part.is_absolute() || std::find(part.begin(), part.end(), "..") != part.end()) {
            return base::fail(base::ErrorCode::invalid_argument,
                              list.string() + ": path is " + part.string() + ", must be a folder in this one");
        }
        return fs::is_directory(model_folder / part, error) ? model_folder / part : model_folder;
    }
    return model_folder;
}

base::Result<TokenFiles> read_token_files(const fs::path& folder, const fs::path& model_folder) {
    TokenFiles files;
    auto config = read_optional_object(folder / "tokenizer_config.json");
    if (!config) { return base::pass_on(config); }
    files.config = std::move(*config);
    const auto map = read_optional_object(folder / "special_tokens_map.json");
    if (!map) { return base::pass_on(map); }
    const json::value* decoder = files.config.if_contains("added_tokens_decoder");
    const bool has_decoder = decoder != nullptr && decoder->is_object();
    for (const auto& [name, token] : *map) {
        if (!has_decoder || !files.config.contains(name)) { files.config[name] = token; }
    }
    if (has_decoder) {
        files.added_tokens = tokens_of_decoder(files.config.at("added_tokens_decoder").get_object());
    } else {
        const auto list = read_optional_object(folder / "added_tokens.json");
        if (!list) { return base::pass_on(list); }
        files.added_tokens = tokens_of_list(*list, files.config);
    }
    const auto model = read_optional_object(model_folder / "config.json");
    if (!model) { return base::pass_on(model); }
    files.class_defaults = defaults_of(files.config, *model);
    const auto sentences = read_optional_object(folder / "sentence_bert_config.json");
    if (!sentences) { return base::pass_on(sentences); }
    if (const json::value* lower = sentences->if_contains("do_lower_case"); lower != nullptr && *lower == true) {
        files.config["do_lower_case"] = true;
    }
    return files;
}

}  // namespace text
