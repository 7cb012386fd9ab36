#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/block_hash.h"
#include "caching/exact/answer_book.h"

namespace caching {

/// Up to where the purges of a shared server are meant: of which life of the server, and how many of them.
struct SharedMoment {
    base::BlockHash life{};  // all zero: of none
    std::uint64_t purges = 0;
    bool operator==(const SharedMoment&) const = default;
};

/// An answer as gateways share it. What was purged after `since` it may say all the same: who reads it must look.
struct SharedDocument {
    SavedAnswer answer;
    SharedMoment since;  // what its gateway knew when the model began with it
};

/// Bytes for a server, sealed under the cluster's key: what others have written, changed, cut off or put under another
/// name is no document.
std::string document_bytes(const SharedDocument& document, const base::HashKey& key);
/// Empty for what is no whole document of this name and key.
std::optional<SharedDocument> read_document(std::string_view bytes, const base::BlockHash& name,
                                            const base::HashKey& key);

/// What an operator has purged, for all gateways. All that is given must hold; where nothing is, everything is meant.
struct SharedPurge {
    std::optional<base::BlockHash> name = {};  // of one request
    std::optional<std::string> tenant = {};
    std::optional<std::string> tag = {};
    std::optional<std::string> revision = {};
    std::optional<std::int64_t> created_before_unix_us = {};
    std::optional<std::string> near_text = {};  // then answers to similar questions only
    double near_similarity = 0.9;
    bool operator==(const SharedPurge&) const = default;

    /// Whether an answer to equal requests is meant.
    bool matches(const SavedAnswer& answer) const;
};
std::string purge_bytes(const SharedPurge& purge);
/// What cannot be read, of a later version say, purges everything.
SharedPurge read_purge_bytes(std::string_view bytes);

}  // namespace caching
