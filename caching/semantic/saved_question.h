#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "caching/semantic/text_profile.h"

namespace caching {

/// A question as a store keeps it: not its text, but all that another one is compared with, and its answer. Times are
/// of the wall clock: they outlive the process.
struct SavedQuestion {
    base::BlockHash exact{};
    base::BlockHash partition{};
    std::string tenant = {};
    std::string category = {};
    std::string embedder = {};  // that made `vector`
    std::string revision = {};
    std::vector<std::string> tags = {};
    std::uint64_t meaning = 0;  // of the answer: equal for answers that say the same
    std::int64_t created_unix_us = 0;
    std::int64_t ttl_us = 0;
    double saved_s = 0;
    TextProfile profile = {};
    std::vector<float> vector = {};  // empty: only an equal question has this answer
    std::string document = {};       // to_document()
};

/// A profile as bytes, and back. False for what is none; `profile` is then as it was.
std::string bytes_of(const TextProfile& profile);
bool read_profile(std::string_view bytes, TextProfile& profile);

/// Where a cache tells what it keeps. Called on the cache's thread, which it must not hold up.
class QuestionJournal {
public:
    virtual ~QuestionJournal() = default;
    /// In the place of an earlier one of the same name.
    virtual void put(SavedQuestion question) = 0;
    virtual void erase(std::vector<base::BlockHash> exact) = 0;
    /// All that was learnt up to now (SemanticCache::learning()).
    virtual void learnt(std::string bytes) = 0;
};

}  // namespace caching
