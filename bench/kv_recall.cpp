#include "bench/kv_recall.h"

#include <algorithm>
#include <boost/json.hpp>
#include <random>
#include <string_view>

#include "bench/packed_file.h"
#include "text/tokenizer.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using base::TokenId;

/// A record with at most `lines_max` of its lines: an even choice, the right one among them.
std::string shortened(std::string_view prompt, std::string_view correct_line, std::uint32_t lines_max) {
    std::vector<std::string_view> before;
    std::vector<std::string_view> lines;
    std::vector<std::string_view> after;
    for (std::size_t at = 0; at < prompt.size();) {
        const std::size_t newline = prompt.find('\n', at);
        const std::size_t end = newline == prompt.npos ? prompt.size() : newline + 1;
        const std::string_view line = prompt.substr(at, end - at);
        const bool is_record = line.starts_with("line ") && line.find("REGISTER_CONTENT is <") != line.npos;
        (is_record ? lines : lines.empty() ? before : after).push_back(line);
        at = end;
    }
    const auto right = static_cast<std::size_t>(
        std::find_if(lines.begin(), lines.end(), [&](auto line) { return line.starts_with(correct_line); }) -
        lines.begin());
    std::string text;
    const auto add = [&text](std::string_view line) { text += line; };
    std::for_each(before.begin(), before.end(), add);
    const std::size_t wanted = lines_max == 0 ? lines.size() : std::min<std::size_t>(lines_max, lines.size());
    for (std::size_t i = 0; i < wanted; ++i) {
        const std::size_t first = i * lines.size() / wanted;
        const std::size_t end = (i + 1) * lines.size() / wanted;
        add(lines[first <= right && right < end ? right : first]);
    }
    std::for_each(after.begin(), after.end(), add);
    return text;
}

}  // namespace

Result<std::vector<RecallItem>> read_longeval(const std::string& path, const text::Tokenizer& tokenizer,
                                              std::uint32_t lines_max, std::size_t tokens_max, std::size_t items_max) {
    std::vector<RecallItem> items;
    std::size_t too_long = 0;
    const auto take = [&](std::string_view line) -> Result<bool> {
        boost::system::error_code error;
        const boost::json::value value = boost::json::parse(line, error);
        const boost::json::object* object = error ? nullptr : value.if_object();
        const auto field = [&](const char* name) { return object == nullptr ? nullptr : object->if_contains(name); };
        const boost::json::value* prompt = field("prompt");
        const boost::json::value* correct = field("correct_line");
        const boost::json::value* expected = field("expected_number");
        if (prompt == nullptr || !prompt->is_string() || correct == nullptr || !correct->is_string() ||
            expected == nullptr || !expected->is_int64()) {
            return base::fail(ErrorCode::invalid_argument,
                              "is not {\"prompt\": \"...\", \"correct_line\": \"...\", \"expected_number\": ...}");
        }
        const std::string_view right = correct->get_string();
        const std::string lead(right.substr(0, right.find('<') + 1));
        auto asked = tokenizer.encode(shortened(prompt->get_string(), lead, lines_max) + "\n" + lead);
        if (!asked) { return base::pass_on(asked); }
        auto answer = tokenizer.encode(std::to_string(expected->get_int64()));
        if (!answer) { return base::pass_on(answer); }
        if (asked->size() + answer->size() > tokens_max) {
            ++too_long;
        } else {
            items.push_back({std::move(*asked), std::move(*answer)});
        }
        return items.size() < items_max;
    };
    if (const auto read = each_line(path, take); !read) { return base::pass_on(read); }
    if (items.empty()) {
        return base::fail(ErrorCode::invalid_argument, path + ": none of " + std::to_string(too_long) +
                                                           " prompts has at most " + std::to_string(tokens_max) +
                                                           " tokens: take fewer lines of each (--longeval-lines)");
    }
    return items;
}

Result<std::vector<RecallItem>> make_passkeys(std::string_view text, const text::Tokenizer& tokenizer,
                                              std::size_t context, std::size_t items) {
    const auto words = tokenizer.encode(text);
    if (!words) { return base::pass_on(words); }
    const auto question = tokenizer.encode("\n\nWhat is the pass key? The pass key is");
    if (!question) { return base::pass_on(question); }
    std::mt19937 random{1};
    std::vector<RecallItem> made;
    for (std::size_t i = 0; i < items; ++i) {
        const std::string key = std::to_string(10000 + random() % 90000);
        const auto sentence =
            tokenizer.encode("\n\nThe pass key is " + key + ". Remember it. " + key + " is the pass key.\n\n");
        const auto answer = tokenizer.encode(" " + key);
        if (!sentence || !answer) { return base::fail(ErrorCode::internal, "no tokens of a pass key"); }
        const std::size_t around = sentence->size() + question->size() + answer->size();
        const std::size_t filler = context - std::min(context, around);
        if (filler == 0 || words->size() < (i + 1) * filler) {
            return base::fail(ErrorCode::invalid_argument,
                              "the text has " + std::to_string(words->size()) + " tokens, " + std::to_string(items) +
                                  " prompts of " + std::to_string(context) +
                                  " need more: take a longer text, fewer --passkeys or another --context");
        }
        const auto of_text = std::span(*words).subspan(i * filler, filler);
        const std::size_t depth = filler * (2 * i + 1) / (2 * items);
        RecallItem item{{of_text.begin(), of_text.begin() + static_cast<std::ptrdiff_t>(depth)}, *answer};
        item.prompt.insert(item.prompt.end(), sentence->begin(), sentence->end());
        item.prompt.insert(item.prompt.end(), of_text.begin() + static_cast<std::ptrdiff_t>(depth), of_text.end());
        item.prompt.insert(item.prompt.end(), question->begin(), question->end());
        made.push_back(std::move(item));
    }
    return made;
}

}  // namespace bench
