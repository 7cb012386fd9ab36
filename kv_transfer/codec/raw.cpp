#include <string>

#include "kv_transfer/codec/codec.h"

namespace kv_transfer {

namespace {

class RawCodec final : public Codec {
public:
    std::string_view name() const override { return "raw"; }
    std::span<const std::byte> encode(const kv_cache::KvLayout&, const kv_cache::KvRange&,
                                      std::span<std::byte> raw) const override {
        return raw;
    }
    base::Result<std::span<const std::byte>> decode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range,
                                                    std::span<const std::byte> payload,
                                                    std::span<std::byte>) const override {
        if (payload.size() != layout.wire_bytes(range)) {
            return base::fail(base::ErrorCode::data_loss, "raw payload of " + std::to_string(payload.size()) +
                                                              " bytes for " + std::to_string(layout.wire_bytes(range)));
        }
        return payload;
    }
    bool needs_scratch() const override { return false; }
};

}  // namespace

const Codec* find_codec(std::string_view name) {
    static const RawCodec raw_codec;
    return name == raw_codec.name() ? &raw_codec : nullptr;
}

}  // namespace kv_transfer
