#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"
#include "kv_transfer/codec/codec.h"
#include "worker/options.h"

namespace cli {

/// The codecs that a worker's settings name; none: KV travels raw.
struct KvCodecs {
    std::vector<std::unique_ptr<kv_transfer::Codec>> owned;
    /// Borrows them.
    kv_transfer::Codecs codecs() const;
};

/// Error: invalid_argument (a lossy codec where loss is not allowed, a level that it does not have, a profile that
/// nothing uses), not_found (zstd without its library), or of the profile; each names its setting.
base::Result<KvCodecs> make_kv_codecs(const worker::WorkerOptions& options, const engine::Engine& engine,
                                      std::uint64_t numerics_id);

}  // namespace cli
