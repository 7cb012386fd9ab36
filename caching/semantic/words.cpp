#include "caching/semantic/words.h"

#include <algorithm>

namespace caching {
namespace {

bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

bool is_word_byte(char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || byte >= 0x80;
}

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

constexpr float kPairWeight = 0.5F;  // as in the training of the projection
constexpr float kRunWeight = 0.3F;
constexpr std::size_t kRunWordBytes = 32;

}  // namespace

std::uint32_t feature_hash(std::string_view prefix, std::string_view bytes) {
    std::uint32_t hash = 2166136261U;
    for (const std::string_view part : {prefix, bytes}) {
        for (const char c : part) {
            hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
        }
    }
    hash = (hash ^ (hash >> 16)) * 0x85ebca6bU;
    hash = (hash ^ (hash >> 13)) * 0xc2b2ae35U;
    return hash ^ (hash >> 16);
}

std::vector<std::string> words_of(std::string_view text, std::size_t limit) {
    std::vector<std::string> words;
    std::string word;
    for (std::size_t i = 0; i <= text.size() && words.size() < limit; ++i) {
        const char c = i < text.size() ? lower(text[i]) : ' ';
        if (c == '\'') { continue; }
        if (is_word_byte(c)) {
            word += c;
        } else if (!word.empty()) {
            words.push_back(std::move(word));
            word.clear();
        }
    }
    return words;
}

std::vector<Feature> features_of(std::string_view text) {
    std::vector<Feature> features;
    const std::vector<std::string> words = words_of(text);
    std::string framed;
    for (std::size_t i = 0; i < words.size(); ++i) {
        features.push_back({feature_hash("w", words[i]), 1.0F});
        framed = "^" + words[i].substr(0, kRunWordBytes) + "$";
        for (const std::size_t run : {3U, 4U}) {
            for (std::size_t at = 0; at + run <= framed.size(); ++at) {
                features.push_back({feature_hash("c", std::string_view(framed).substr(at, run)), kRunWeight});
            }
        }
        if (i > 0) { features.push_back({feature_hash("b", words[i - 1] + " " + words[i]), kPairWeight}); }
    }
    return features;
}

std::string canonical_text(std::string_view text) {
    while (!text.empty() && is_blank(text.front())) {
        text.remove_prefix(1);
    }
    while (!text.empty() && is_blank(text.back())) {
        text.remove_suffix(1);
    }
    if (text.find('\n') != std::string_view::npos) { return std::string(text); }
    std::string canonical;
    for (const char c : text) {
        if (!is_blank(c)) {
            canonical += c;
        } else if (canonical.back() != ' ') {
            canonical += ' ';
        }
    }
    return canonical;
}

std::string canonical_turn(std::string_view text) {
    const std::string canonical = canonical_text(text);
    const auto is_mark = [](char c) { return c == '.' || c == '?' || c == '!'; };
    std::string turn;
    for (std::size_t i = 0; i < canonical.size();) {
        std::size_t end = i;
        while (end < canonical.size() && is_mark(canonical[end])) {
            ++end;
        }
        const bool ends_word =
            end > i && i > 0 && !is_blank(canonical[i - 1]) && (end == canonical.size() || is_blank(canonical[end]));
        if (end == i) { ++end; }
        if (!ends_word) { turn.append(canonical, i, end - i); }
        i = end;
    }
    return turn;
}

}  // namespace caching
