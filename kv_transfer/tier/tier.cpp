#include "kv_transfer/tier/tier.h"

#include "base/check.h"

namespace kv_transfer {

std::vector<TierPiece> tier_pieces(std::span<const kv_cache::BlockId> blocks,
                                   std::span<const kv_cache::BlockId> slots) {
    CHECK(blocks.size() == slots.size(), blocks.size() << " blocks, " << slots.size() << " slots");
    std::vector<TierPiece> pieces;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (!pieces.empty() && pieces.back().blocks.end() == blocks[i] && pieces.back().slots.end() == slots[i]) {
            ++pieces.back().blocks.count;
            ++pieces.back().slots.count;
        } else {
            pieces.push_back({{blocks[i], 1}, {slots[i], 1}});
        }
    }
    return pieces;
}

void TierBytes::save_in_turn(kv_cache::KvAccess& pool, const std::function<std::optional<TierSave>()>& next,
                             const std::function<void(base::Result<void>)>& ended) {
    while (const auto one = next()) {
        ended(save(pool, one->pieces, one->hashes, one->parent));
    }
}

}  // namespace kv_transfer
