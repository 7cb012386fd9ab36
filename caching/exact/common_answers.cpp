#include "caching/exact/common_answers.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kOverhead = 192;   // of an entry's nodes in lists and tables, rounded up
constexpr std::size_t kWaitingPart = 4;  // a quarter of the bytes is for those that wait
constexpr std::string_view kWords = "common words 1";

void add_number(std::string& bytes, std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
        bytes += static_cast<char>((value >> shift) & 0xff);
    }
}

void add_field(std::string& bytes, std::string_view field) {
    add_number(bytes, field.size());
    bytes += field;
}

}  // namespace

base::BlockHash CommonAnswers::hash_of(const SavedText& text) const {
    std::string bytes;
    add_field(bytes, kWords);
    add_field(bytes, text.text);
    add_number(bytes, text.is_cut ? 1 : 0);
    add_number(bytes, text.stop_string ? 1 : 0);
    add_field(bytes, text.stop_string.value_or(std::string()));
    add_number(bytes, text.stop_token ? static_cast<std::uint64_t>(*text.stop_token) + 1 : 0);
    add_number(bytes, text.prompt_tokens);
    add_number(bytes, text.completion_tokens);
    add_number(bytes, text.reasoning_tokens);
    return base::keyed_hash(options_.key, std::as_bytes(std::span(bytes)));
}

bool CommonAnswers::has_giver(const Entry& entry, const std::string& tenant) {
    return std::any_of(entry.givers.begin(), entry.givers.end(),
                       [&](const Giver& giver) { return giver.tenant == tenant; });
}

/// After a change: what it takes.
void CommonAnswers::measure(Entry& entry) {
    std::size_t bytes = sizeof(Entry) + kOverhead + entry.given.answer.bytes() + entry.given.kv.size() +
                        entry.given.pieces.size() * sizeof(SpokenPiece);
    for (const Giver& giver : entry.givers) {
        bytes += sizeof(Giver) + giver.tenant.size();
    }
    Shelf& shelf = shelf_of(entry);
    CHECK(shelf.bytes >= entry.bytes);
    shelf.bytes += bytes;
    shelf.bytes -= entry.bytes;
    entry.bytes = bytes;
}

void CommonAnswers::see(const base::BlockHash& name, CommonAnswer given) {
    if (!given.answer.tags.empty() || given.answer.answer.text.empty()) { return; }
    CHECK(given.pieces.size() <= kPiecesMost);
    Giver giver{.tenant = std::exchange(given.answer.tenant, {}), .key = std::exchange(given.answer.key, {})};
    given.answer.id = 0;
    given.answer.answer.cached_tokens = 0;  // of a prefix cache that was the giver's
    const base::BlockHash words = hash_of(given.answer.answer);

    auto found = by_name_.find(name);
    if (found != by_name_.end()) {
        const Entry& entry = *found->second;
        if (entry.words != words || entry.given.answer.expires_unix_us <= given.answer.created_unix_us) {
            remove(found->second);
            found = by_name_.end();
        }
    }
    if (found == by_name_.end()) {
        waiting_.entries.emplace_front();
        waiting_.entries.front().name = name;
        waiting_.entries.front().words = words;
        found = by_name_.emplace(name, waiting_.entries.begin()).first;
    }
    const Place place = found->second;
    Entry& entry = *place;
    if (!entry.is_common && !has_giver(entry, giver.tenant)) { entry.givers.push_back(std::move(giver)); }
    if (!entry.is_common && entry.givers.size() >= options_.tenants_least) {
        waiting_.bytes -= std::exchange(entry.bytes, 0);
        entry.is_common = true;
        common_.entries.splice(common_.entries.begin(), waiting_.entries, place);
    }
    if (!entry.is_common) {
        given.answer.answer = {};
        given.pieces.clear();
        given.kv.clear();
    }
    entry.given = std::move(given);  // the latest: it was found to hold still
    measure(entry);
    Shelf& shelf = shelf_of(entry);
    shelf.entries.splice(shelf.entries.begin(), shelf.entries, place);
    const std::size_t for_waiting = options_.bytes_max / kWaitingPart;
    const std::size_t bound = entry.is_common ? options_.bytes_max - for_waiting : for_waiting;
    while (shelf.bytes > bound) {
        remove(std::prev(shelf.entries.end()));  // at last itself, where it is larger than all there is
    }
}

const CommonAnswer* CommonAnswers::find(const base::BlockHash& name) {
    const auto found = by_name_.find(name);
    if (found == by_name_.end() || !found->second->is_common) { return nullptr; }
    common_.entries.splice(common_.entries.begin(), common_.entries, found->second);
    return &found->second->given;
}

std::size_t CommonAnswers::purge(const AnswerFilter& filter, bool dry_run) {
    std::size_t count = 0;
    for (Shelf* shelf : {&waiting_, &common_}) {
        for (auto entry = shelf->entries.begin(); entry != shelf->entries.end();) {
            const auto next = std::next(entry);
            SavedAnswer meant = entry->given.answer;
            const auto is_meant = [&](const Giver& giver) {
                meant.tenant = giver.tenant;
                meant.key = giver.key;
                return filter.matches(meant);
            };
            if (std::any_of(entry->givers.begin(), entry->givers.end(), is_meant)) {
                ++count;
                if (!dry_run) { remove(entry); }
            }
            entry = next;
        }
    }
    return count;
}

void CommonAnswers::remove(Place entry) {
    Shelf& shelf = shelf_of(*entry);
    CHECK(shelf.bytes >= entry->bytes);
    shelf.bytes -= entry->bytes;
    by_name_.erase(entry->name);
    shelf.entries.erase(entry);
}

}  // namespace caching
