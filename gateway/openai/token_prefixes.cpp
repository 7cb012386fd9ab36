#include "gateway/openai/token_prefixes.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace gateway {
namespace {

constexpr std::size_t kSpecialsKnownMax = 4096;

/// One more hash of a chain.
base::BlockHash linked(const base::HashKey& key, const base::BlockHash& before, std::string_view piece,
                       std::span<const std::size_t> starts) {
    std::string bytes(sizeof before.high + sizeof before.low, '\0');
    std::memcpy(bytes.data(), &before.high, sizeof before.high);
    std::memcpy(bytes.data() + sizeof before.high, &before.low, sizeof before.low);
    const std::uint64_t sizes[] = {piece.size(), starts.size()};
    bytes.append(reinterpret_cast<const char*>(sizes), sizeof sizes);
    bytes.append(reinterpret_cast<const char*>(starts.data()), starts.size_bytes());
    bytes += piece;
    return base::keyed_hash(key, std::as_bytes(std::span(bytes)));
}

/// Of `starts`, those in [begin, end), counted from `begin`.
std::vector<std::size_t> within(std::span<const std::size_t> starts, std::size_t begin, std::size_t end) {
    const auto first = std::lower_bound(starts.begin(), starts.end(), begin);
    const auto last = std::lower_bound(first, starts.end(), end);
    std::vector<std::size_t> result(first, last);
    for (std::size_t& at : result) {
        at -= begin;
    }
    return result;
}

bool ends_with(const std::vector<base::TokenId>& tokens, const std::vector<base::TokenId>& end) {
    return tokens.size() >= end.size() && std::equal(end.rbegin(), end.rend(), tokens.rbegin());
}

}  // namespace

base::Result<std::vector<base::TokenId>> TokenPrefixes::encode(const TextPort& port, std::string_view text,
                                                               bool add_special,
                                                               std::span<const std::size_t> text_starts,
                                                               std::string_view scope) {
    const bool may_help = options_.tokens_max > 0 && text.size() >= options_.text_bytes_min;
    if (!may_help || (add_special && !prepends_only(port))) {
        return port.encode(text, add_special, true, text_starts);
    }
    std::vector<Cut> cuts = cuts_of(port, text, text_starts);
    if (cuts.empty()) { return port.encode(text, add_special, true, text_starts); }
    name_cuts(cuts, text, add_special, text_starts, scope);

    std::shared_ptr<const Tokens> known;
    std::size_t known_cut = cuts.size();
    for (std::size_t index = cuts.size(); index > 0 && !known; --index) {
        known = find(cuts[index - 1].name);
        if (known) { known_cut = index - 1; }
    }
    {
        const std::scoped_lock lock(mutex_);
        ++counts_.texts;
        counts_.hits += known ? 1 : 0;
        counts_.tokens_saved += known ? known->size() : 0;
    }
    /// The tokens of text[cuts[from].end, end), seen together with the special token before it.
    const auto after = [&](std::size_t from, std::size_t end, Tokens& tokens) -> base::Result<void> {
        const std::size_t begin = cuts[from].begin;
        const auto starts = within(text_starts, begin, end);
        auto news = port.encode(text.substr(begin, end - begin), false, true, starts);
        if (!news) { return base::pass_on(news); }
        tokens.insert(tokens.end(), news->begin() + (news->empty() ? 0 : 1), news->end());
        return {};
    };
    const std::size_t last = cuts.size() - 1;
    Tokens tokens;
    if (!known) {
        const auto starts = within(text_starts, 0, cuts[last].end);
        auto first = port.encode(text.substr(0, cuts[last].end), add_special, true, starts);
        if (!first) { return first; }
        tokens = std::move(*first);
    } else {
        tokens = *known;
        if (known_cut < last) {
            if (auto added = after(known_cut, cuts[last].end, tokens); !added) { return base::pass_on(added); }
        }
    }
    if (!known || known_cut < last) { keep(cuts[last].name, std::make_shared<const Tokens>(tokens)); }
    if (auto added = after(last, text.size(), tokens); !added) { return base::pass_on(added); }
    return tokens;
}

std::vector<TokenPrefixes::Cut> TokenPrefixes::cuts_of(const TextPort& port, std::string_view text,
                                                       std::span<const std::size_t> text_starts) {
    const SpecialTexts& specials = port.special_texts();
    std::vector<Cut> cuts;
    for (std::size_t at = specials.next_begin(text, 0); at < text.size(); at = specials.next_begin(text, at)) {
        const std::size_t size = specials.longest_at(text, at);
        if (size == 0 || std::binary_search(text_starts.begin(), text_starts.end(), at)) {
            ++at;
            continue;
        }
        const std::size_t end = at + size;
        bool is_clear = true;  // no other one that would begin inside and reach beyond
        for (std::size_t inside = at + 1; inside < end && is_clear; ++inside) {
            is_clear = specials.longest_at(text, inside) <= end - inside;
        }
        if (is_clear && cuts_well(port, std::string(text.substr(at, size)))) { cuts.push_back({at, end}); }
        at = end;
    }
    return cuts;
}

void TokenPrefixes::name_cuts(std::vector<Cut>& cuts, std::string_view text, bool add_special,
                              std::span<const std::size_t> text_starts, std::string_view scope) const {
    base::BlockHash name = linked(options_.key, {.high = add_special ? 1u : 0u, .low = 0}, scope, {});
    std::size_t begin = 0;
    for (Cut& cut : cuts) {
        name = linked(options_.key, name, text.substr(begin, cut.end - begin), within(text_starts, begin, cut.end));
        cut.name = name;
        begin = cut.end;
    }
}

/// Whether both sides of it have the same tokens with and without the other side. Asked once for each.
bool TokenPrefixes::cuts_well(const TextPort& port, const std::string& special) {
    {
        const std::scoped_lock lock(mutex_);
        const auto known = known_.find(special);
        if (known != known_.end()) { return known->second; }
        if (known_.size() >= kSpecialsKnownMax) { return false; }
    }
    const auto tokens_of = [&](const std::string& text) {
        return port.encode(text, false, true, {}).value_or(Tokens());
    };
    bool is_good = tokens_of(special).size() == 1;
    for (const auto& [before, behind] : {std::pair("x", "x"), {" a\n", "\n b"}, {"x ", " x"}, {"1", "2"}}) {
        if (!is_good) { break; }
        const Tokens left = tokens_of(before + special);
        const Tokens right = tokens_of(special + behind);
        const Tokens both = tokens_of(before + special + behind);
        is_good = !left.empty() && !right.empty() && left.back() == tokens_of(special).front() &&
                  right.front() == left.back() && both.size() == left.size() + right.size() - 1 &&
                  std::equal(left.begin(), left.end(), both.begin()) && ends_with(both, right);
    }
    const std::scoped_lock lock(mutex_);
    return known_.emplace(special, is_good).first->second;
}

/// What is added to a text stands before it only. Asked once.
bool TokenPrefixes::prepends_only(const TextPort& port) {
    {
        const std::scoped_lock lock(mutex_);
        if (prepends_only_) { return *prepends_only_; }
    }
    const auto plain = port.encode("x", false, true, {});
    const auto added = port.encode("x", true, true, {});
    const std::scoped_lock lock(mutex_);
    prepends_only_ = plain && added && !plain->empty() && ends_with(*added, *plain);
    return *prepends_only_;
}

std::shared_ptr<const TokenPrefixes::Tokens> TokenPrefixes::find(const base::BlockHash& name) {
    const std::scoped_lock lock(mutex_);
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) { return nullptr; }
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().tokens;
}

void TokenPrefixes::keep(const base::BlockHash& name, std::shared_ptr<const Tokens> tokens) {
    const std::scoped_lock lock(mutex_);
    if (tokens->size() > options_.tokens_max || by_name_.contains(name)) { return; }
    counts_.tokens_kept += tokens->size();
    entries_.push_front({name, std::move(tokens)});
    by_name_.emplace(name, entries_.begin());
    while (counts_.tokens_kept > options_.tokens_max || entries_.size() > options_.entries_max) {
        counts_.tokens_kept -= entries_.back().tokens->size();
        by_name_.erase(entries_.back().name);
        entries_.pop_back();
    }
}

TokenPrefixes::Counts TokenPrefixes::counts() const {
    const std::scoped_lock lock(mutex_);
    return counts_;
}

}  // namespace gateway
