#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace gateway {

/// Texts that a tokenizer turns into one token each, wherever they stand: to be found in what clients write, so that
/// there they stay text. Built once per model; immutable, used from many threads.
class SpecialTexts {
public:
    /// `special`: of tokens that only the template may set. `control`: of tokens that answers show too ("<think>"), so
    /// that an assistant's own text may hold them.
    SpecialTexts(std::vector<std::string> special, std::vector<std::string> control);

    /// Whether one begins at byte `at` of `text`: all of it, or as much as there is up to `end`, so that another text
    /// printed behind this one could complete it. `of_assistant`: control texts do not count.
    bool begins_at(std::string_view text, std::size_t at, std::size_t end, bool of_assistant) const;

    /// The first byte from `at` on that one could begin with; text.size(): there is none. All that begins_at() and
    /// longest_at() find stands at such bytes, so that a long text is looked through at the speed of memory.
    std::size_t next_begin(std::string_view text, std::size_t at) const;

    /// Bytes of the longest one that begins at byte `at` and is there in full; 0: none does.
    std::size_t longest_at(std::string_view text, std::size_t at) const;

    /// Whether one that holds a character which JSON escapes could be missed in a document as it was sent.
    bool has_escaped() const { return has_escaped_; }

private:
    struct Sorted {
        std::vector<std::string> texts;
        std::array<bool, 256> begins{};  // bytes that a text begins with
        bool begins_at(std::string_view text, std::size_t at, std::size_t end) const;
        std::size_t longest_at(std::string_view text, std::size_t at) const;
    };
    static Sorted sorted(std::vector<std::string> texts);

    Sorted special_;
    Sorted control_;
    std::array<bool, 256> begins_{};  // of either kind
    std::string begin_bytes_;         // those of them that are true
    bool has_escaped_ = false;
};

}  // namespace gateway
