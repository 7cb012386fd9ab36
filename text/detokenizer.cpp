#include "text/detokenizer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "text/tokenizer_parts.h"

namespace text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

/// transformers' clean_up_tokenization: these passes, one after another over the whole text.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kCleanUp = {{{" .", "."},
                                                                                     {" ?", "?"},
                                                                                     {" !", "!"},
                                                                                     {" ,", ","},
                                                                                     {" ' ", "'"},
                                                                                     {" n't", "n't"},
                                                                                     {" 'm", "'m"},
                                                                                     {" 's", "'s"},
                                                                                     {" 've", "'ve"},
                                                                                     {" 're", "'re"}}};

/// What stands at the start of some bytes.
struct Lead {
    enum class Kind { whole, unfinished, broken } kind;
    std::size_t size;  // of the character; or of the broken sequence (its longest valid beginning, at least 1)
};

Lead look_at(std::string_view bytes) {
    const auto at = [&](std::size_t index) { return static_cast<unsigned char>(bytes[index]); };
    const unsigned char first = at(0);
    if (first < 0x80) { return {Lead::Kind::whole, 1}; }
    std::size_t size = 0;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (first >= 0xC2 && first <= 0xDF) {
        size = 2;
    } else if (first >= 0xE0 && first <= 0xEF) {
        size = 3;
        if (first == 0xE0) { low = 0xA0; }   // no overlong forms
        if (first == 0xED) { high = 0x9F; }  // no surrogates
    } else if (first >= 0xF0 && first <= 0xF4) {
        size = 4;
        if (first == 0xF0) { low = 0x90; }
        if (first == 0xF4) { high = 0x8F; }
    } else {
        return {Lead::Kind::broken, 1};
    }
    for (std::size_t index = 1; index < size; ++index) {
        if (index == bytes.size()) { return {Lead::Kind::unfinished, index}; }
        if (at(index) < low || at(index) > high) { return {Lead::Kind::broken, index}; }
        low = 0x80;
        high = 0xBF;
    }
    return {Lead::Kind::whole, size};
}

}  // namespace

void StreamReplacer::push(std::string_view text, std::string& out) {
    held_ += text;
    std::size_t done = 0;
    for (std::size_t found = held_.find(pattern_); found != std::string::npos; found = held_.find(pattern_, done)) {
        out.append(held_, done, found - done);
        out += replacement_;
        done = found + pattern_.size();
    }
    const std::size_t rest = held_.size() - done;
    std::size_t keep = std::min(rest, pattern_.size() - 1);
    while (keep > 0 && held_.compare(held_.size() - keep, keep, pattern_, 0, keep) != 0) {
        --keep;
    }
    out.append(held_, done, rest - keep);
    held_.erase(0, held_.size() - keep);
}

void StreamReplacer::flush(std::string& out) {
    out += held_;
    held_.clear();
}

StreamDetokenizer::StreamDetokenizer(const Tokenizer& tokenizer, const DecodeOptions& options)
    : tokenizer_(&tokenizer), options_(options) {
    const SluiceTokenTable& table = tokenizer.parts_->table;
    leading_spaces_left_ = table.first_rule == SLUICE_FIRST_STRIP_TEXT ? table.leading_spaces : 0;
    if (options_.clean_up_spaces) {
        for (const auto& [pattern, replacement] : kCleanUp) {
            clean_up_.emplace_back(pattern, replacement);
        }
    }
}

StreamDetokenizer::StreamDetokenizer(std::shared_ptr<const Tokenizer> tokenizer, const DecodeOptions& options)
    : StreamDetokenizer(*tokenizer, options) {
    owner_ = std::move(tokenizer);
}

void StreamDetokenizer::push(base::TokenId token, std::string& out) {
    const Tokenizer::Parts& parts = *tokenizer_->parts_;
    if (!parts.has(token)) { return; }
    const unsigned flags = parts.table.flags[token];
    if ((flags & SLUICE_TOKEN_ABSENT) != 0) { return; }
    if (options_.skip_special && (flags & SLUICE_TOKEN_SPECIAL) != 0) { return; }
    if (owes_space_) {
        owes_space_ = false;
        add_bytes(" ", out);
    }
    std::string_view bytes = tokenizer_->token_bytes(token);
    if (std::exchange(is_first_, false)) {
        if (parts.table.first_rule == SLUICE_FIRST_BY_FLAGS) {
            if ((flags & SLUICE_TOKEN_SPACED) != 0) { bytes.remove_prefix(1); }
            if ((flags & SLUICE_TOKEN_CONTINUATION) != 0) {
                const SluiceBytes& prefix = parts.table.continuation_prefix;
                add_bytes({reinterpret_cast<const char*>(prefix.data), prefix.size}, out);
            }
        } else if (parts.table.first_rule == SLUICE_FIRST_STRIP_TOKEN) {
            std::string stripped(bytes);
            std::erase(stripped, ' ');
            add_bytes(stripped, out);
            return;
        }
    }
    if ((flags & SLUICE_TOKEN_SUFFIXED) != 0 && !bytes.empty()) {
        bytes.remove_suffix(1);
        owes_space_ = true;
    }
    add_bytes(bytes, out);
}

std::string StreamDetokenizer::push(base::TokenId token) {
    std::string out;
    push(token, out);
    return out;
}

void StreamDetokenizer::flush(std::string& out) {
    drain_utf8(true, out);
    std::string text;
    for (std::size_t pass = 0; pass < clean_up_.size(); ++pass) {
        text.clear();
        clean_up_[pass].flush(text);
        for (std::size_t later = pass + 1; later < clean_up_.size(); ++later) {
            std::string passed;
            clean_up_[later].push(text, passed);
            text = std::move(passed);
        }
        out += text;
    }
}

std::string StreamDetokenizer::flush() {
    std::string out;
    flush(out);
    return out;
}

void StreamDetokenizer::add_bytes(std::string_view bytes, std::string& out) {
    while (leading_spaces_left_ > 0 && !bytes.empty()) {
        if (bytes.front() != ' ') {
            leading_spaces_left_ = 0;
        } else {
            bytes.remove_prefix(1);
            --leading_spaces_left_;
        }
    }
    if (bytes.empty()) { return; }
    pending_ += bytes;
    drain_utf8(false, out);
}

void StreamDetokenizer::drain_utf8(bool is_end, std::string& out) {
    const bool replaces_each_byte = tokenizer_->parts_->table.replaces_each_byte != 0;
    std::string text;
    std::size_t done = 0;
    while (done < pending_.size()) {
        const Lead lead = look_at(std::string_view(pending_).substr(done));
        if (lead.kind == Lead::Kind::whole) {
            text.append(pending_, done, lead.size);
        } else if (lead.kind == Lead::Kind::broken || is_end) {
            for (std::size_t count = replaces_each_byte ? lead.size : 1; count > 0; --count) {
                text += kReplacement;
            }
        } else {
            break;
        }
        done += lead.size;
    }
    pending_.erase(0, done);
    emit(text, out);
}

void StreamDetokenizer::emit(std::string_view text, std::string& out) {
    if (text.empty()) { return; }
    if (clean_up_.empty()) {
        out += text;
        return;
    }
    std::string current(text);
    for (StreamReplacer& pass : clean_up_) {
        std::string passed;
        pass.push(current, passed);
        current = std::move(passed);
    }
    out += current;
}

}  // namespace text
