#pragma once

#include <cstdint>
#include <string_view>

namespace gateway {

/// Follows a text that is JSON, or the beginning of it, to where its outermost object, list or string has ended. Of a
/// number or a word nobody can say whether it has. Pure.
class JsonEnd {
public:
    void push(std::string_view text) {
        for (const char c : text) {
            step(c);
        }
    }
    bool is_closed() const { return is_closed_; }

private:
    void step(char c) {
        if (in_string_) {
            if (is_escaped_) {
                is_escaped_ = false;
            } else if (c == '\\') {
                is_escaped_ = true;
            } else if (c == '"') {
                in_string_ = false;
                is_closed_ = depth_ == 0;
            }
        } else if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            ++depth_;
        } else if ((c == '}' || c == ']') && depth_ > 0) {
            is_closed_ = --depth_ == 0;
        }
    }

    std::uint64_t depth_ = 0;
    bool in_string_ = false;
    bool is_escaped_ = false;
    bool is_closed_ = false;
};

}  // namespace gateway
