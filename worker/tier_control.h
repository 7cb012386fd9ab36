#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv_cache/kv_cache.h"
#include "worker/sequence.h"

namespace worker {

/// A sequence as far as levels below the pool go by it: its lengths and the names of its blocks. Borrows them: for one
/// call.
struct TierSequence {
    base::SequenceId id{};
    RequestKey key{};
    SequenceState state = SequenceState::waiting;
    std::uint32_t tokens = 0;  // that it has
    std::uint32_t computed_tokens = 0;
    std::uint32_t step_tokens = 0;             // its share of the running step; 0: none
    std::span<const base::BlockHash> chain;    // of its full blocks
    const kv_cache::SequenceKv* kv = nullptr;  // null: it has no KV memory
    std::optional<base::TimePoint> first_token_due = std::nullopt;
    std::uint32_t source_tokens = 0;  // of its first tokens another worker is believed to have KV, and would be asked
    bool must_be_computed = false;    // every token of its prompt: nothing is loaded
    std::uint64_t session = 0;

    std::uint32_t computed_after_step() const { return computed_tokens + step_tokens; }
};

/// What KvTiers may do to those whose sequences it serves. As StepControl's of the same names, with the key of a
/// sequence in place of the sequence.
class TierControl {
public:
    virtual ~TierControl() = default;
    /// The live sequence of this key; empty: there is none.
    virtual std::optional<TierSequence> find(RequestKey key) const = 0;
    virtual void make_loading(RequestKey key) = 0;
    virtual void load_from_end(RequestKey key, const KvFromEnd& range) = 0;
    virtual void loaded(RequestKey key, base::Result<std::uint32_t> kv_tokens) = 0;
    virtual std::optional<base::Duration> predict_prefill(std::uint32_t computed_tokens,
                                                          std::uint32_t tokens) const = 0;
    virtual kv_cache::KvCache& cache() const = 0;
    virtual const base::Clock& clock() const = 0;
    [[nodiscard]] virtual bool post(std::function<void()> task) = 0;
    virtual void tell_load_price(std::size_t level, double seconds_per_token) = 0;
};

}  // namespace worker
