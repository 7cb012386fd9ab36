#include "bench/zstd_codec.h"

#include <dlfcn.h>

#include <utility>
#include <vector>

#include "kv_transfer/codec/codecs.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

class ZstdCodec final : public kv_transfer::Codec {
public:
    ZstdCodec(const SystemZstd& zstd, std::uint64_t numerics_id)
        : zstd_(zstd), int8_(kv_transfer::make_int8_codec(numerics_id)) {}

    std::string_view name() const override { return "zstd"; }
    bool has_level(std::uint32_t level) const override { return level == 0; }
    bool is_lossy(std::uint32_t) const override { return true; }
    std::size_t bound(std::size_t raw_bytes) const override { return zstd_.compress_bound(int8_->bound(raw_bytes)); }

    Result<std::size_t> encode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range, std::uint32_t level,
                               std::span<const std::byte> raw, std::span<std::byte> out) const override {
        std::vector<std::byte> chunk(int8_->bound(raw.size()));
        const auto bytes = int8_->encode(layout, range, level, raw, chunk);
        if (!bytes) { return bytes; }
        const std::size_t written = zstd_.compress(std::span(chunk).first(*bytes), out);
        if (written == 0) { return base::fail(ErrorCode::internal, "zstd could not compress a chunk"); }
        return written;
    }
    Result<void> decode(const kv_cache::KvLayout& layout, const kv_cache::KvRange& range, std::uint32_t level,
                        std::span<const std::byte> payload, std::span<std::byte> out) const override {
        std::vector<std::byte> chunk(int8_->bound(out.size()));
        const std::size_t bytes = zstd_.decompress(payload, chunk);
        if (bytes == 0) { return base::fail(ErrorCode::data_loss, "no chunk that zstd knows, or too long a one"); }
        return int8_->decode(layout, range, level, std::span(chunk).first(bytes), out);
    }

private:
    const SystemZstd& zstd_;
    std::unique_ptr<kv_transfer::Codec> int8_;
};

}  // namespace

std::size_t SystemZstd::compress(std::span<const std::byte> in, std::span<std::byte> out) const {
    const std::size_t bytes = compress_function(out.data(), out.size(), in.data(), in.size(), 1);
    return bytes > out.size() ? 0 : bytes;  // errors are numbers near the largest
}

std::size_t SystemZstd::decompress(std::span<const std::byte> in, std::span<std::byte> out) const {
    const std::size_t bytes = decompress_function(out.data(), out.size(), in.data(), in.size());
    return bytes > out.size() ? 0 : bytes;
}

const SystemZstd* system_zstd() {
    static const SystemZstd* const found = []() -> const SystemZstd* {
        void* library = ::dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);  // stays: libraries are not unloaded
        if (library == nullptr) { return nullptr; }
        static SystemZstd zstd;
        const auto take = [library]<class Function>(const char* name, Function& function) {
            function = reinterpret_cast<Function>(::dlsym(library, name));
            return function != nullptr;
        };
        const bool has_all = take("ZSTD_compressBound", zstd.compress_bound) &&
                             take("ZSTD_compress", zstd.compress_function) &&
                             take("ZSTD_decompress", zstd.decompress_function);
        return has_all ? &zstd : nullptr;
    }();
    return found;
}

std::unique_ptr<kv_transfer::Codec> make_zstd_codec(std::uint64_t numerics_id) {
    const SystemZstd* zstd = system_zstd();
    return zstd == nullptr ? nullptr : std::make_unique<ZstdCodec>(*zstd, numerics_id);
}

}  // namespace bench
