#include "caching/semantic/text_profile.h"

#include <algorithm>
#include <array>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "caching/semantic/words.h"

namespace caching {
namespace {

using Words = std::unordered_set<std::string_view>;

/// Words that ask and beg but do not choose an answer.
const Words kFillers = {
    "a",     "an",    "the",   "i",        "me",       "my",       "we",   "us",      "our",      "you",   "your",
    "is",    "are",   "am",    "was",      "were",     "be",       "been", "being",   "do",       "does",  "did",
    "to",    "of",    "in",    "on",       "at",       "for",      "and",  "or",      "it",       "its",   "that",
    "this",  "these", "those", "there",    "so",       "with",     "by",   "as",      "from",     "into",  "how",
    "what",  "which", "can",   "could",    "would",    "should",   "will", "shall",   "may",      "might", "please",
    "hey",   "hi",    "hello", "quick",    "question", "tell",     "show", "explain", "describe", "give",  "know",
    "want",  "need",  "like",  "help",     "one",      "just",     "also", "some",    "any",      "have",  "has",
    "had",   "ive",   "im",    "id",       "get",      "got",      "if",   "then",    "whats",    "hows",  "thanks",
    "thank", "use",   "way",   "possible", "really",   "actually", "ok",   "okay",    "about"};
const Words kNegations = {"not",     "no",      "never",  "without", "cannot", "cant",      "dont",    "doesnt",
                          "didnt",   "isnt",    "arent",  "wasnt",   "werent", "wont",      "wouldnt", "shouldnt",
                          "couldnt", "hasnt",   "havent", "hadnt",   "none",   "neither",   "nor",     "except",
                          "unable",  "nothing", "nobody", "stop",    "avoid",  "excluding", "unless"};
const Words kTimes = {"today",     "yesterday", "tomorrow",  "tonight", "now",      "currently", "current", "latest",
                      "newest",    "recent",    "recently",  "last",    "next",     "monday",    "tuesday", "wednesday",
                      "thursday",  "friday",    "saturday",  "sunday",  "january",  "february",  "april",   "june",
                      "july",      "august",    "september", "october", "november", "december",  "morning", "evening",
                      "afternoon", "night",     "weekend",   "week",    "weekly",   "month",     "monthly", "year",
                      "yearly",    "annual",    "day",       "daily",   "hour",     "hourly",    "minute",  "second"};
const Words kDirections = {"to",    "from",  "than",  "into", "over",    "before", "after",  "versus", "vs",  "between",
                           "under", "above", "below", "by",   "against", "onto",   "within", "inside", "for", "with"};
const std::unordered_map<std::string_view, std::string_view> kNumberWords = {
    {"zero", "0"},      {"two", "2"},       {"three", "3"},     {"four", "4"},        {"five", "5"},
    {"six", "6"},       {"seven", "7"},     {"eight", "8"},     {"nine", "9"},        {"ten", "10"},
    {"eleven", "11"},   {"twelve", "12"},   {"thirteen", "13"}, {"fourteen", "14"},   {"fifteen", "15"},
    {"sixteen", "16"},  {"eighteen", "18"}, {"twenty", "20"},   {"thirty", "30"},     {"forty", "40"},
    {"fifty", "50"},    {"sixty", "60"},    {"hundred", "100"}, {"thousand", "1000"}, {"million", "1e6"},
    {"billion", "1e9"}, {"half", "1/2"},    {"double", "x2"},   {"twice", "x2"},      {"first", "1st"},
    {"third", "3rd"},   {"fourth", "4th"},  {"fifth", "5th"},   {"dozen", "12"},      {"once", "x1"}};
constexpr std::array<std::array<std::string_view, 2>, 64> kOpposites = {{{"enable", "disable"},
                                                                         {"activate", "deactivate"},
                                                                         {"on", "off"},
                                                                         {"open", "close"},
                                                                         {"start", "stop"},
                                                                         {"add", "remove"},
                                                                         {"install", "uninstall"},
                                                                         {"mount", "unmount"},
                                                                         {"lock", "unlock"},
                                                                         {"encrypt", "decrypt"},
                                                                         {"compress", "decompress"},
                                                                         {"increase", "decrease"},
                                                                         {"raise", "lower"},
                                                                         {"ascending", "descending"},
                                                                         {"before", "after"},
                                                                         {"with", "without"},
                                                                         {"inside", "outside"},
                                                                         {"include", "exclude"},
                                                                         {"first", "last"},
                                                                         {"buy", "sell"},
                                                                         {"send", "receive"},
                                                                         {"upload", "download"},
                                                                         {"import", "export"},
                                                                         {"push", "pull"},
                                                                         {"show", "hide"},
                                                                         {"allow", "deny"},
                                                                         {"allow", "block"},
                                                                         {"accept", "reject"},
                                                                         {"accept", "decline"},
                                                                         {"login", "logout"},
                                                                         {"subscribe", "unsubscribe"},
                                                                         {"create", "delete"},
                                                                         {"max", "min"},
                                                                         {"maximum", "minimum"},
                                                                         {"highest", "lowest"},
                                                                         {"largest", "smallest"},
                                                                         {"more", "less"},
                                                                         {"most", "least"},
                                                                         {"older", "newer"},
                                                                         {"above", "below"},
                                                                         {"over", "under"},
                                                                         {"up", "down"},
                                                                         {"left", "right"},
                                                                         {"win", "lose"},
                                                                         {"gain", "lose"},
                                                                         {"deposit", "withdraw"},
                                                                         {"credit", "debit"},
                                                                         {"public", "private"},
                                                                         {"deep", "shallow"},
                                                                         {"best", "worst"},
                                                                         {"true", "false"},
                                                                         {"male", "female"},
                                                                         {"parent", "child"},
                                                                         {"input", "output"},
                                                                         {"read", "write"},
                                                                         {"connect", "disconnect"},
                                                                         {"merge", "split"},
                                                                         {"join", "leave"},
                                                                         {"same", "different"},
                                                                         {"early", "late"},
                                                                         {"advantages", "disadvantages"},
                                                                         {"benefits", "risks"},
                                                                         {"pros", "cons"},
                                                                         {"positive", "negative"}}};

std::string lower(std::string_view word) {
    std::string low(word);
    for (char& c : low) {
        if (c >= 'A' && c <= 'Z') { c = static_cast<char>(c - 'A' + 'a'); }
    }
    return low;
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_upper(char c) {
    return c >= 'A' && c <= 'Z';
}
bool is_letter(char c) {
    return is_upper(c) || (c >= 'a' && c <= 'z') || static_cast<unsigned char>(c) >= 0x80;
}

/// Endings off, roughly: what makes "files" and "file", "sorting" and "sort" one. Short words stay.
std::string stem(std::string word) {
    const auto ends = [&](std::string_view end) {
        return word.size() > end.size() + 2 && std::string_view(word).ends_with(end);
    };
    if (ends("ies")) { return word.replace(word.size() - 3, 3, "y"); }
    if (ends("ing")) {
        word.resize(word.size() - 3);
    } else if (ends("ed")) {
        word.resize(word.size() - 2);
    } else if (ends("s") && !ends("ss") && !ends("us")) {
        word.pop_back();
    }
    if (ends("e")) { word.pop_back(); }
    if (word.size() > 3 && word[word.size() - 1] == word[word.size() - 2] && is_letter(word.back())) {
        word.pop_back();
    }
    return word;
}

/// Of the words in kOpposites: TextProfile::poles.
const std::unordered_map<std::string, std::vector<std::int32_t>>& poles_by_stem() {
    static const auto poles = [] {
        std::unordered_map<std::string, std::vector<std::int32_t>> made;
        for (std::size_t pair = 0; pair < kOpposites.size(); ++pair) {
            const auto pole = static_cast<std::int32_t>(pair + 1);
            made[stem(std::string(kOpposites[pair][0]))].push_back(pole);
            made[stem(std::string(kOpposites[pair][1]))].push_back(-pole);
        }
        return made;
    }();
    return poles;
}

std::uint32_t named(char kind, std::string_view token) {
    return feature_hash(std::string_view(&kind, 1), token);
}

void sort_unique(std::vector<std::uint32_t>& list) {
    std::sort(list.begin(), list.end());
    list.erase(std::unique(list.begin(), list.end()), list.end());
}

/// A token between blanks, with marks at its ends taken off.
struct Piece {
    std::string_view text;
    bool begins_sentence = false;
    bool quoted = false;
};

std::vector<Piece> pieces_of(std::string_view text) {
    constexpr std::size_t kPieces = 1024;  // a longer text is compared by its beginning
    std::vector<Piece> pieces;
    bool begins = true;
    for (std::size_t at = 0; at < text.size() && pieces.size() < kPieces;) {
        const std::size_t from = text.find_first_not_of(" \t\n\r", at);
        if (from == std::string_view::npos) { break; }
        std::size_t to = text.find_first_of(" \t\n\r", from);
        if (to == std::string_view::npos) { to = text.size(); }
        at = to;
        std::string_view piece = text.substr(from, to - from);
        const char last = piece.back();
        Piece found{piece, begins, false};
        begins = last == '.' || last == '?' || last == '!' || last == ':';
        constexpr std::string_view kMarks = "\"'`()[]{},;:?!<>";
        while (!found.text.empty() && kMarks.find(found.text.front()) != std::string_view::npos) {
            found.quoted |= found.text.front() == '"' || found.text.front() == '`';
            found.text.remove_prefix(1);
        }
        while (!found.text.empty() && (kMarks.find(found.text.back()) != std::string_view::npos ||
                                       (found.text.back() == '.' && found.text.size() > 1))) {
            found.text.remove_suffix(1);
        }
        if (found.text.ends_with("'s")) { found.text.remove_suffix(2); }
        if (!found.text.empty()) { pieces.push_back(found); }
    }
    return pieces;
}

bool is_number(std::string_view token) {
    if (token.empty()) { return false; }
    const bool ascii_letter = is_letter(token.front()) && static_cast<unsigned char>(token.front()) < 0x80;
    if (ascii_letter || token.front() == '*' || token.front() == '/' || token.front() == '~') { return false; }
    std::size_t digits = 0;
    std::size_t letters = 0;
    for (const char c : token) {
        digits += is_digit(c) ? 1 : 0;
        letters += is_letter(c) ? 1 : 0;
    }
    return digits > 0 && letters <= 3;  // "12", "$1.50", "12th", "24h", "50%"
}

bool is_identifier(std::string_view token) {
    if (token.size() > 1 && token.front() == '-' && is_letter(token[1])) { return true; }
    bool letter = false;
    bool mark = false;
    for (std::size_t i = 0; i < token.size(); ++i) {
        letter |= is_letter(token[i]);
        const bool inner = i > 0 && i + 1 < token.size();
        mark |= token[i] == '_' || token[i] == '*' || token[i] == '~' || token[i] == '=' || token[i] == '\\' ||
                token[i] == '/' || token[i] == '$' || token[i] == '@' || token[i] == '#' || token[i] == '+' ||
                ((token[i] == '.' || token[i] == ':') && (inner || i == 0));
    }
    return mark && (letter || token.size() > 1);
}

}  // namespace

TextProfile profile_of(std::string_view text) {
    TextProfile profile;
    const std::vector<Piece> pieces = pieces_of(text);
    std::size_t capitals = 0;
    for (const Piece& piece : pieces) {
        capitals += is_upper(piece.text.front()) ? 1 : 0;
    }
    const bool shouts = capitals * 10 > pieces.size() * 6 && pieces.size() > 3;  // a title says nothing by capitals
    std::uint32_t before = 0;                                                    // the last content word
    bool after_direction = false;
    for (const Piece& piece : pieces) {
        const std::string low = lower(piece.text);
        std::string plain;
        for (const char c : low) {
            if (c != '\'' && !(static_cast<unsigned char>(c) == 0xe2) && c != ',') { plain += c; }
        }
        const auto spelled = kNumberWords.find(plain);
        std::uint32_t critical = 0;
        if (is_number(plain)) {  // 1.00 is 1
            const std::size_t point = plain.find('.');
            if (point != std::string::npos && plain.find_first_not_of('0', point + 1) == std::string::npos) {
                plain.resize(point);
            }
        }
        if (is_number(low) || spelled != kNumberWords.end()) {
            critical = named('n', spelled != kNumberWords.end() ? spelled->second : std::string_view(plain));
            profile.numbers.push_back(critical);
        } else if (is_identifier(low)) {
            critical = named('i', piece.text);
            profile.identifiers.push_back(critical);
        } else if (is_upper(piece.text.front()) && !piece.begins_sentence && !shouts && plain != "i" &&
                   !kFillers.contains(plain) && !std::string_view(piece.text).starts_with("I'")) {
            critical = named('a', stem(plain));
            profile.names.push_back(critical);
        }
        for (const std::string& word : words_of(low, 8)) {
            profile.all.push_back(named('a', stem(word)));
        }
        if (kTimes.contains(plain)) { profile.times.push_back(named('t', plain)); }
        if (kNegations.contains(plain)) { ++profile.negations; }
        const std::string stemmed = stem(plain);
        if (const auto poles = poles_by_stem().find(stemmed); poles != poles_by_stem().end()) {
            profile.poles.insert(profile.poles.end(), poles->second.begin(), poles->second.end());
        }
        const bool directs = kDirections.contains(plain);
        if (kFillers.contains(plain) || directs) {
            if (directs && before != 0 && (profile.directed.empty() || profile.directed.back() != before)) {
                profile.directed.push_back(before);
            }
            after_direction |= directs;
            continue;
        }
        const std::uint32_t content = named('w', stemmed);
        profile.content.push_back(content);
        if (after_direction || critical != 0) { profile.directed.push_back(content); }
        after_direction = false;
        before = content;
    }
    sort_unique(profile.names);
    sort_unique(profile.all);
    sort_unique(profile.times);
    return profile;
}

const char* gate_name(Gate gate) {
    switch (gate) {
        case Gate::none:
            return "none";
        case Gate::numbers:
            return "numbers";
        case Gate::identifiers:
            return "identifiers";
        case Gate::names:
            return "names";
        case Gate::times:
            return "times";
        case Gate::poles:
            return "opposites";
        case Gate::negation:
            return "negation";
        case Gate::order:
            return "order";
    }
    return "none";
}

namespace {

bool opposed(const TextProfile& a, const TextProfile& b) {
    const auto has = [](const TextProfile& profile, std::int32_t pole) {
        return std::find(profile.poles.begin(), profile.poles.end(), pole) != profile.poles.end();
    };
    for (const std::int32_t pole : a.poles) {
        if (has(b, -pole) && (!has(a, -pole) || !has(b, pole))) { return true; }
    }
    return false;
}

bool all_in(const std::vector<std::uint32_t>& names, const std::vector<std::uint32_t>& words) {
    return std::includes(words.begin(), words.end(), names.begin(), names.end());
}

/// The directed words that both have, each once, in another order.
bool turned_round(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) {
    const auto shared = [](const std::vector<std::uint32_t>& list, const std::vector<std::uint32_t>& other) {
        std::vector<std::uint32_t> common;
        for (const std::uint32_t word : list) {
            if (std::count(list.begin(), list.end(), word) == 1 && std::count(other.begin(), other.end(), word) == 1) {
                common.push_back(word);
            }
        }
        return common;
    };
    return shared(a, b) != shared(b, a);
}

}  // namespace

Gate first_conflict(const TextProfile& a, const TextProfile& b, Gates gates) {
    const auto has = [&](Gate gate) { return (gates & gate_bit(gate)) != 0; };
    if (has(Gate::numbers) && a.numbers != b.numbers) { return Gate::numbers; }
    if (has(Gate::identifiers) && a.identifiers != b.identifiers) { return Gate::identifiers; }
    if (has(Gate::names) && (!all_in(a.names, b.all) || !all_in(b.names, a.all))) { return Gate::names; }
    if (has(Gate::times) && a.times != b.times) { return Gate::times; }
    if (has(Gate::poles) && opposed(a, b)) { return Gate::poles; }
    if (has(Gate::negation) && a.negations != b.negations) { return Gate::negation; }
    if (has(Gate::order) && turned_round(a.directed, b.directed)) { return Gate::order; }
    return Gate::none;
}

double unmatched_share(const TextProfile& a, const TextProfile& b) {
    std::vector<std::uint32_t> left = a.content;
    std::vector<std::uint32_t> right = b.content;
    if (left.empty() && right.empty()) { return 0; }
    std::sort(left.begin(), left.end());
    std::sort(right.begin(), right.end());
    std::vector<std::uint32_t> common;
    std::set_intersection(left.begin(), left.end(), right.begin(), right.end(), std::back_inserter(common));
    return 1.0 - 2.0 * static_cast<double>(common.size()) / static_cast<double>(left.size() + right.size());
}

}  // namespace caching
