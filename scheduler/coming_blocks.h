#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"
#include "scheduler/block_index.h"

namespace scheduler {

/// Prefixes that workers are going to hold: those of prompts that were placed there and that their reports cannot show
/// yet. So requests that come together, or sooner after each other than a report, see what the first of them will have
/// computed (Dynamo's predict-on-route, for caches). Not thread-safe. Slots are those of the registry.
///
/// A chain of n blocks is remembered by some of its positions: 1 to 8, then each a quarter further on than the one
/// before, and n. So a prompt costs some dozens of entries however long it is; who begins alike finds what it shares
/// whole when that ends at one of them, and at least four fifths of it else.
///
/// An entry ends with the second report after its first token, with its request where that had none, or with its
/// worker. Bounded: where `marks_max` positions are known, further ones are not learned until others have ended.
class ComingBlocks {
public:
    explicit ComingBlocks(std::size_t marks_max);

    /// The worker in `slot` will compute this chain. Replaces what is known of the request.
    void add(base::RequestId request, std::uint32_t slot, std::span<const base::BlockHash> chain);
    /// Its first token was seen: the reports after the next one show its blocks. No effect when it is not known.
    void computed(base::RequestId request);
    /// The request is over; without a first token nothing will come of it.
    void ended(base::RequestId request, bool had_token);
    /// A report of the worker in `slot` was taken in. `is_placed` says whether a request without a first token is still
    /// on its way.
    void heartbeat(std::uint32_t slot, const std::function<bool(base::RequestId)>& is_placed);
    /// The life in `slot` has ended.
    void clear(std::uint32_t slot);

    struct Held {
        std::uint32_t slot = 0;
        std::uint32_t blocks = 0;
    };
    /// Who will hold a beginning of `chain`, and how many of its blocks at least; the longest first, at most kFoundMax.
    static constexpr std::size_t kFoundMax = 16;
    void find(std::span<const base::BlockHash> chain, std::vector<Held>& found) const;

    std::size_t marks() const { return marks_.blocks(); }

private:
    struct Entry {
        std::uint32_t slot = 0;
        std::vector<base::BlockHash> marks;  // of its own: those that nobody else had brought to the slot
        bool computed = false;
        int heartbeats = 0;  // since then
    };
    using Entries = std::unordered_map<base::RequestId, Entry>;
    Entries::iterator drop(Entries::iterator entry);

    BlockIndex marks_;
    Entries entries_;
    std::vector<std::vector<base::RequestId>> of_slots_;  // [slots]: entries, and perhaps some that have ended
};

}  // namespace scheduler
