#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kv_cache/kv_layout.h"
#include "proto/common.pb.h"
#include "proto/version.h"

namespace kv_transfer {

/// How the canonical bytes of a frame travel when they do not travel as they are ("raw", which is no codec: nothing is
/// copied for it). Stateless; thread-safe. Levels are the codec's own.
class Codec {
public:
    virtual ~Codec() = default;
    /// Name on the wire; not "raw", not empty, at most 32 characters of printable ASCII.
    virtual std::string_view name() const = 0;
    virtual bool has_level(std::uint32_t level) const = 0;
    /// Whether decode gives other bytes than encode got.
    virtual bool is_lossy(std::uint32_t level) const = 0;
    /// Orders the levels of a codec by how much they lose: 0 nothing.
    virtual std::uint32_t loss(std::uint32_t level) const { return is_lossy(level) ? 1 + level : 0; }
    /// Bytes that encode writes at most for `raw_bytes` canonical bytes; may be more than those.
    virtual std::size_t bound(std::size_t raw_bytes) const = 0;

    /// Codes `raw`, the canonical bytes of `range`, into `out` (bound(raw.size()) bytes). The bytes written; a frame
    /// for which they are not fewer than the raw ones goes raw. Error: internal; then it goes raw too.
    virtual base::Result<std::size_t> encode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                             std::uint32_t level, std::span<const std::byte> raw,
                                             std::span<std::byte> out) const = 0;

    /// The canonical bytes of `range` into `out` (exactly as long) from a payload that anybody may have made.
    /// Error: data_loss.
    virtual base::Result<void> decode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                      std::uint32_t level, std::span<const std::byte> payload,
                                      std::span<std::byte> out) const = 0;
};

/// How the KV of one hand-off, or one frame, travels: proto::KvMode for a worker that has the codec.
struct KvMode {
    const Codec* codec = nullptr;  // null: raw
    std::uint32_t level = 0;       // 0 for raw

    bool is_raw() const { return codec == nullptr; }
    bool is_lossy() const { return codec != nullptr && codec->is_lossy(level); }
    std::uint32_t loss() const { return codec == nullptr ? 0 : codec->loss(level); }
    /// For people: "raw", the name of a codec without loss, or its name and level, "sluice/3".
    std::string label() const;
    bool operator==(const KvMode&) const = default;
};

/// The codecs of a worker. A value; the codecs are borrowed and outlive it.
class Codecs {
public:
    Codecs() = default;
    explicit Codecs(std::vector<const Codec*> codecs) : codecs_(std::move(codecs)) {}

    /// The mode that a peer, or a placement, names. Error: unimplemented (no such codec, no such level, or it is lossy
    /// where the name says exact, or the other way round), with the names.
    base::Result<KvMode> find(const proto::KvMode& mode) const;
    /// The largest bound() of all codecs for `raw_bytes`; `raw_bytes` when there are none.
    std::size_t bound(std::size_t raw_bytes) const;
    /// For RegisterWorker.kv_codecs.
    std::vector<std::string> names() const;
    /// All modes but raw, codec by codec, each from its least lossy level on; kModesMax at most.
    std::vector<KvMode> modes() const;
    static constexpr std::size_t kModesMax = 12;
    bool empty() const { return codecs_.empty(); }
    std::span<const Codec* const> all() const { return codecs_; }

private:
    std::vector<const Codec*> codecs_;
};

void set_mode(proto::KvMode& out, const KvMode& mode);

/// What a hand-off says of itself when its frames went in several modes: the lossiest; without loss, coded before raw.
KvMode lossier(const KvMode& a, const KvMode& b);

}  // namespace kv_transfer
