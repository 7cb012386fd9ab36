#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "base/result.h"
#include "kv_cache/kv_layout.h"

namespace kv_transfer {

/// How the canonical bytes of a frame travel. Stateless; thread-safe.
class Codec {
public:
    virtual ~Codec() = default;
    /// Name in the frame.
    virtual std::string_view name() const = 0;

    /// The payload for `raw` (the canonical bytes of `range`): a part of `raw` itself, changed in place. Never longer.
    virtual std::span<const std::byte> encode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                              std::span<std::byte> raw) const = 0;

    /// The canonical bytes of `range` from a payload: the payload itself, or bytes in `scratch` (as long as the
    /// canonical bytes). Error: data_loss.
    virtual base::Result<std::span<const std::byte>> decode(const kv_cache::KvLayout& layout,
                                                            const kv_cache::KvRange& range,
                                                            std::span<const std::byte> payload,
                                                            std::span<std::byte> scratch) const = 0;
    /// Whether decode needs scratch.
    virtual bool needs_scratch() const = 0;
};

/// The codec of that name, or null. So far "raw" alone: bytes as they are.
const Codec* find_codec(std::string_view name);

}  // namespace kv_transfer
