#pragma once

#include <cstddef>
#include <span>

#include "kv_cache/kv_layout.h"
#include "kv_cache/kv_store.h"

namespace kv_cache {

/// Copies `range` of a sequence into `out` in the canonical wire order `[layer][K|V][kv_head][token][head_dim]`, as
/// `store.layout().wire_bytes(range)` bytes (exactly the size of `out`). `blocks` is the sequence's table from token 0
/// on; the range need not begin or end at a block. The same bytes come out for every TileOrder.
/// The store is in host memory (else: KvAccess). Thread-safe as long as nobody writes what is read.
void pack(const KvStore& store, std::span<const BlockId> blocks, const KvRange& range, std::span<std::byte> out);

/// The inverse: writes `range` from `in`; the other tokens of its blocks stay as they are.
/// Two calls may run at the same time when their ranges share no (block, layer).
void unpack(KvStore& store, std::span<const BlockId> blocks, const KvRange& range, std::span<const std::byte> in);

}  // namespace kv_cache
