#pragma once

#include <string>
#include <vector>

namespace text_test {

/// A template, or a tokenizer.json, made to hurt.
struct Hostile {
    std::string name;
    std::string content;
};

/// Chains and nesting that overflow a stack, texts and lists that grow, widths of gigabytes, filters that take for
/// ever. They see the context {"messages": [{"role": "user", "content": "hello"}]}.
std::vector<Hostile> hostile_templates();

/// Files whose fields are huge, absurd, nested or of another type; normalizers that grow, patterns that backtrack.
std::vector<Hostile> hostile_tokenizers();

}  // namespace text_test
