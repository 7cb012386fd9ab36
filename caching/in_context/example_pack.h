#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace caching {

/// A question and its answer as a prompt shows them. Borrowed.
struct ShownExample {
    std::string_view question;
    std::string_view answer;
};

/// The block of text that shows examples to a model: one sentence that says that they are data, then each between marks
/// of its own. Equal examples in equal order give equal bytes, so that the KV of a block that was used before is a
/// cached prefix. What in an example looks like one of the marks is written with "&lt;" for its "<": an example cannot
/// end its own block. Empty for no examples.
std::string render_examples(std::span<const ShownExample> examples);

/// The bytes that one more example takes in the block.
std::size_t rendered_bytes(const ShownExample& example);

/// `text` with every mark in it made harmless.
std::string defused(std::string_view text);

}  // namespace caching
