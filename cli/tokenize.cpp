#include "cli/tokenize.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <limits>
#include <utility>
#include <vector>

#include "cli/json_lines.h"
#include "text/tokenizer.h"

namespace cli {
namespace {

namespace json = boost::json;

base::Result<json::object> encode(const text::Tokenizer& tokenizer, const json::value& text, bool special) {
    if (!text.is_string()) { return base::fail(base::ErrorCode::invalid_argument, "text is not a string"); }
    const auto ids = tokenizer.encode(text.get_string(), {.add_special = special, .parse_special = special});
    if (!ids) { return base::pass_on(ids); }
    return json::object{{"ids", json::array(ids->begin(), ids->end())}};
}

base::Result<json::object> decode(const text::Tokenizer& tokenizer, const json::value& ids, bool special) {
    if (!ids.is_array()) { return base::fail(base::ErrorCode::invalid_argument, "ids is not a list"); }
    std::vector<base::TokenId> tokens;
    for (const json::value& id : ids.get_array()) {
        if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() > std::numeric_limits<base::TokenId>::max()) {
            return base::fail(base::ErrorCode::invalid_argument, json::serialize(id) + " is not a token id");
        }
        tokens.push_back(static_cast<base::TokenId>(id.get_int64()));
    }
    return json::object{{"text", tokenizer.decode(tokens, {.skip_special = !special})}};
}

}  // namespace

CLI::App* add_tokenize_command(CLI::App& root, TokenizeOptions& options) {
    CLI::App* command = root.add_subcommand(
        "tokenize", "JSON lines on stdin: {\"text\": ..} gives {\"ids\": [..]}, {\"ids\": [..]} gives {\"text\": ..}");
    command->add_option("path", options.path, "a model's folder, a GGUF file, or one tokenizer file")->required();
    command->add_option("--pattern", options.pattern,
                        "for bare vocabularies: gpt2, cl100k, o200k, llama3, qwen2, bert-uncased or bert-cased");
    command->add_flag("--special", options.special, "add BOS and EOS; read and show special tokens");
    return command;
}

int tokenize_lines(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
    const auto tokenizer = text::Tokenizer::load(options.path, {.pattern = options.pattern});
    if (!tokenizer) {
        std::cerr << "sluice tokenize: " << tokenizer.error().message << '\n';
        return 1;
    }
    answer_json_lines(in, out, [&](const json::object& row) -> base::Result<json::object> {
        if (const json::value* text = row.if_contains("text")) { return encode(**tokenizer, *text, options.special); }
        if (const json::value* ids = row.if_contains("ids")) { return decode(**tokenizer, *ids, options.special); }
        return base::fail(base::ErrorCode::invalid_argument, "neither text nor ids");
    });
    return 0;
}

int tokenize_main(const TokenizeOptions& options) {
    return tokenize_lines(options, std::cin, std::cout);
}

}  // namespace cli
