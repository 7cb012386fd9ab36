#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>

namespace CLI {
class App;
}

namespace cli {

struct TokenizeOptions {
    std::filesystem::path path{};  // a model's folder or one tokenizer file
    std::string pattern{};         // for bare vocabularies; see text::TokenizerOptions
    bool special = false;          // adds BOS and EOS, reads and shows special tokens
};

/// Adds `sluice tokenize` to `root`; the options must live as long as it.
CLI::App* add_tokenize_command(CLI::App& root, TokenizeOptions& options);

/// Answers each JSON line of `in` with one on `out`: {"text": ..} with {"ids": [..]}, {"ids": [..]} with {"text": ..},
/// anything else with {"error": ..}. Flushes after each. Returns the exit status: 0, or 1 when the tokenizer cannot be
/// loaded (said on stderr).
int tokenize_lines(const TokenizeOptions& options, std::istream& in, std::ostream& out);

/// tokenize_lines on stdin and stdout.
int tokenize_main(const TokenizeOptions& options);

}  // namespace cli
