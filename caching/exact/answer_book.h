#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"

namespace caching {

/// What a model said, before any API's form: the same answer goes out whole or as a stream, as a chat or a completion.
struct SavedText {
    std::string text;
    bool is_cut = false;  // by the bound of its tokens; else it stopped by itself
    std::optional<std::string> stop_string = {};
    std::optional<base::TokenId> stop_token = {};
    std::uint32_t prompt_tokens = 0;
    std::uint32_t cached_tokens = 0;  // of the prompt, in a prefix cache when it was made
    std::uint32_t completion_tokens = 0;
    std::uint32_t reasoning_tokens = 0;  // of them
    bool operator==(const SavedText&) const = default;
};

/// An answer and the request that it answers, which only its key knows. Times are of the wall clock: they outlive the
/// process.
struct SavedAnswer {
    std::uint64_t id = 0;  // of this gateway's life
    base::BlockHash key{};
    std::string tenant = {};
    std::string model = {};
    std::string revision = {};           // of its weights and numbers
    std::vector<std::string> tags = {};  // documents that it depends on
    std::int64_t created_unix_us = 0;
    std::int64_t expires_unix_us = 0;
    double saved_s = 0;  // that the model took for it
    SavedText answer;

    std::size_t bytes() const;
};

/// Which answers are meant; all that are given must hold. None given: all.
struct AnswerFilter {
    std::optional<std::uint64_t> id = {};
    std::optional<base::BlockHash> key = {};
    std::optional<std::string> tenant = {};
    std::optional<std::string> model = {};
    std::optional<std::string> revision = {};
    std::optional<std::string> tag = {};
    std::optional<std::int64_t> created_before_unix_us = {};

    bool matches(const SavedAnswer& answer) const;
};

/// Answers by the name of their request, in memory. What was used longest ago goes first: the tenant's own where it has
/// its share, else anybody's. Pure; not thread-safe.
class AnswerBook {
public:
    struct Options {
        std::size_t entries_max = 100'000;
        std::size_t bytes_max = std::size_t{256} << 20;
        double tenant_share = 1.0;  // of bytes_max that one tenant may fill
    };
    struct Counts {
        std::size_t entries = 0;
        std::size_t bytes = 0;
        std::uint64_t evicted = 0;
    };
    explicit AnswerBook(Options options) : options_(options) {}

    /// Whatever its age; it counts as used. Null: none. Valid until the next change.
    const SavedAnswer* find(const base::BlockHash& key);
    /// Takes the place of an earlier one; gives it its id. Returns the keys of those that had to go, which may be its
    /// own: one that is larger than the bounds is not kept.
    std::vector<base::BlockHash> put(SavedAnswer answer);
    /// The keys of what the filter means; they are gone afterwards unless `dry_run`.
    std::vector<base::BlockHash> purge(const AnswerFilter& filter, bool dry_run);
    /// Every answer once, the one used last first, until `visit` says false.
    void for_each(const std::function<bool(const SavedAnswer&)>& visit) const;
    Counts counts() const { return {by_key_.size(), bytes_, evicted_}; }

private:
    struct Tenant;
    struct Entry {
        SavedAnswer answer;
        std::size_t bytes = 0;
        Tenant* tenant = nullptr;
        std::list<Entry*>::iterator in_tenant;
    };
    struct Tenant {
        std::size_t bytes = 0;
        std::list<Entry*> entries;  // used last first
    };
    void remove(std::list<Entry>::iterator entry);
    void make_room(const std::string& tenant, std::size_t bytes, std::vector<base::BlockHash>& gone);

    Options options_;
    std::list<Entry> entries_;  // used last first
    std::unordered_map<base::BlockHash, std::list<Entry>::iterator> by_key_;
    std::unordered_map<std::string, Tenant> tenants_;
    std::size_t bytes_ = 0;
    std::uint64_t next_id_ = 1;
    std::uint64_t evicted_ = 0;
};

}  // namespace caching
