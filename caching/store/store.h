#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "base/block_hash.h"
#include "base/result.h"
#include "caching/exact/answer_book.h"

namespace caching {

/// One change of what a store keeps: an answer to be kept (in the place of an earlier one of its key), or the key of
/// one that is to go.
using StoreChange = std::variant<SavedAnswer, base::BlockHash>;

/// Where answers outlive the process. Losing it costs misses, never a wrong answer. One thread at a time.
class Store {
public:
    virtual ~Store() = default;
    /// The key that names of requests are made with, the same in every life of the store.
    virtual base::Result<base::HashKey> hash_key() = 0;
    /// Every whole answer, latest first, until `visit` says false. What cannot be read is left out.
    virtual base::Result<void> load(const std::function<bool(SavedAnswer)>& visit) = 0;
    /// All of the changes or none of them. Error: the store's; it may be tried again.
    virtual base::Result<void> apply(const std::vector<StoreChange>& changes) = 0;
};

}  // namespace caching
