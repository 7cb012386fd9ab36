#include "gateway/request/prompt_hashes.h"

#include <utility>
#include <vector>

#include "base/check.h"
#include "proto/block_hashes.h"

namespace gateway {

PromptHashes::PromptHashes(const base::HashKey& key, base::HashScope scope, std::span<const base::TokenId> prompt)
    : scope_(std::move(scope)) {
    const std::vector<base::BlockHash> chain = base::block_hash_chain(key, scope_, prompt);
    blocks_ = chain.size();
    last_ = chain.empty() ? base::chain_root(key, scope_) : chain.back();
    bytes_ = sluice::proto::write_block_hashes(chain);
}

bool SequenceHashes::hold_for(std::uint64_t numerics_id, std::uint32_t block_tokens) const {
    return prompt_ && prompt_->scope().numerics_id == numerics_id && prompt_->scope().block_tokens == block_tokens;
}

std::string SequenceHashes::bytes(const base::HashKey& key, std::span<const base::TokenId> prompt,
                                  std::span<const base::TokenId> generated) {
    CHECK(prompt_);
    const std::size_t block_tokens = prompt_->scope().block_tokens;
    std::vector<base::TokenId> block;
    while (true) {
        const std::size_t begin = (prompt_->blocks() + further_blocks_) * block_tokens;
        const std::size_t end = begin + block_tokens;
        if (end > prompt.size() + generated.size()) { break; }
        block.clear();
        for (std::size_t at = begin; at < end; ++at) {
            block.push_back(at < prompt.size() ? prompt[at] : generated[at - prompt.size()]);
        }
        last_ = base::chain_next(key, further_blocks_ == 0 ? prompt_->last() : last_, block);
        further_bytes_ += sluice::proto::write_block_hashes(std::span(&last_, 1));
        ++further_blocks_;
    }
    return prompt_->bytes() + further_bytes_;
}

}  // namespace gateway
