#pragma once

#include <algorithm>

#include "kv_transfer/codec/codec.h"

namespace kv_test {

/// Level 0: runs of equal bytes, exact, up to twice as long as raw. Level 1: every other byte, lossy.
class TestCodec final : public kv_transfer::Codec {
public:
    std::string_view name() const override { return "test"; }
    bool has_level(std::uint32_t level) const override { return level < 2; }
    bool is_lossy(std::uint32_t level) const override { return level == 1; }
    std::size_t bound(std::size_t raw_bytes) const override { return 2 * raw_bytes; }

    base::Result<std::size_t> encode(const kv_cache::KvLayout&, const kv_cache::KvRange&, std::uint32_t level,
                                     std::span<const std::byte> raw, std::span<std::byte> out) const override {
        std::size_t written = 0;
        for (std::size_t i = 0; i < raw.size();) {
            if (level == 1) {
                out[written++] = raw[i];
                i += 2;
                continue;
            }
            std::size_t run = 1;
            while (i + run < raw.size() && run < 255 && raw[i + run] == raw[i]) {
                ++run;
            }
            out[written++] = static_cast<std::byte>(run);
            out[written++] = raw[i];
            i += run;
        }
        return written;
    }

    base::Result<void> decode(const kv_cache::KvLayout&, const kv_cache::KvRange&, std::uint32_t level,
                              std::span<const std::byte> payload, std::span<std::byte> out) const override {
        const auto damaged = [] { return base::fail(base::ErrorCode::data_loss, "no payload of this codec"); };
        if (level == 1) {
            if (payload.size() * 2 != out.size()) { return damaged(); }
            for (std::size_t i = 0; i < out.size(); ++i) {
                out[i] = i % 2 == 0 ? payload[i / 2] : std::byte{0};
            }
            return {};
        }
        std::size_t written = 0;
        for (std::size_t i = 0; i + 1 < payload.size(); i += 2) {
            const auto run = std::to_integer<std::size_t>(payload[i]);
            if (run > out.size() - written) { return damaged(); }
            std::fill_n(out.begin() + static_cast<std::ptrdiff_t>(written), run, payload[i + 1]);
            written += run;
        }
        if (payload.size() % 2 != 0 || written != out.size()) { return damaged(); }
        return {};
    }
};

inline const TestCodec kTestCodec;
inline const kv_transfer::Codecs kTestCodecs{{&kTestCodec}};

inline proto::KvMode test_mode(std::uint32_t level) {
    proto::KvMode mode;
    mode.set_codec("test");
    mode.set_level(level);
    mode.set_lossy(level == 1);
    return mode;
}

}  // namespace kv_test
