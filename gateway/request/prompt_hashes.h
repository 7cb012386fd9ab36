#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/block_hash.h"
#include "base/ids.h"

namespace gateway {

/// Block hashes of one prompt, as the scheduler is asked with them. Made once, where its text became tokens; shared by
/// all choices of the prompt and all their tries. Immutable: any thread.
class PromptHashes {
public:
    PromptHashes(const base::HashKey& key, base::HashScope scope, std::span<const base::TokenId> prompt);

    const base::HashScope& scope() const { return scope_; }
    /// Of the full blocks, in wire form.
    const std::string& bytes() const { return bytes_; }
    /// The link before the first token that is in no full block.
    base::BlockHash last() const { return last_; }
    std::size_t blocks() const { return blocks_; }

private:
    base::HashScope scope_;
    std::string bytes_;
    base::BlockHash last_;
    std::size_t blocks_;
};

/// The chain of one sequence: its prompt's, longer once the rest of the sequence has to be placed again. Only blocks
/// that have filled since the last time are hashed. Not thread-safe.
class SequenceHashes {
public:
    /// `prompt` may be empty: then there are none.
    explicit SequenceHashes(std::shared_ptr<const PromptHashes> prompt) : prompt_(std::move(prompt)) {}

    /// Whether there are hashes that hold among workers of this id and with blocks of so many tokens. Where there are
    /// none the scheduler places without knowing of cached prefixes, which costs time but is never wrong.
    bool hold_for(std::uint64_t numerics_id, std::uint32_t block_tokens) const;
    /// Of the full blocks of `prompt` and `generated` (each longer than or as the time before), in wire form. There
    /// must be hashes.
    std::string bytes(const base::HashKey& key, std::span<const base::TokenId> prompt,
                      std::span<const base::TokenId> generated);

private:
    std::shared_ptr<const PromptHashes> prompt_;
    std::string further_bytes_;  // of blocks that hold generated tokens
    base::BlockHash last_;       // of them
    std::size_t further_blocks_ = 0;
};

}  // namespace gateway
