#include "kv_transfer/codec/codec.h"

#include <algorithm>

#include "base/log.h"

namespace kv_transfer {
namespace {

constexpr std::string_view kRaw = "raw";

std::string describe(const proto::KvMode& mode) {
    return "codec \"" + base::log_safe(mode.codec(), 32) + "\", level " + std::to_string(mode.level()) +
           (mode.lossy() ? ", lossy" : ", exact");
}

}  // namespace

base::Result<KvMode> Codecs::find(const proto::KvMode& mode) const {
    if ((mode.codec().empty() || mode.codec() == kRaw) && mode.level() == 0 && !mode.lossy()) { return KvMode{}; }
    for (const Codec* codec : codecs_) {
        if (codec->name() == mode.codec() && codec->has_level(mode.level()) &&
            codec->is_lossy(mode.level()) == mode.lossy()) {
            return KvMode{codec, mode.level()};
        }
    }
    return base::fail(base::ErrorCode::unimplemented, "no KV mode here for " + describe(mode));
}

std::size_t Codecs::bound(std::size_t raw_bytes) const {
    std::size_t bytes = raw_bytes;
    for (const Codec* codec : codecs_) {
        bytes = std::max(bytes, codec->bound(raw_bytes));
    }
    return bytes;
}

std::vector<std::string> Codecs::names() const {
    std::vector<std::string> names;
    for (const Codec* codec : codecs_) {
        names.emplace_back(codec->name());
    }
    return names;
}

std::vector<KvMode> Codecs::modes() const {
    constexpr std::uint32_t kLevels = 16;
    std::vector<KvMode> modes;
    for (const Codec* codec : codecs_) {
        const auto first = static_cast<std::ptrdiff_t>(modes.size());
        for (std::uint32_t level = 0; level < kLevels; ++level) {
            if (codec->has_level(level)) { modes.push_back({codec, level}); }
        }
        std::stable_sort(modes.begin() + first, modes.end(),
                         [](const KvMode& a, const KvMode& b) { return a.loss() < b.loss(); });
    }
    modes.resize(std::min(modes.size(), kModesMax));
    return modes;
}

std::string KvMode::label() const {
    if (codec == nullptr) { return std::string(kRaw); }
    return is_lossy() ? std::string(codec->name()) + "/" + std::to_string(level) : std::string(codec->name());
}

KvMode lossier(const KvMode& a, const KvMode& b) {
    if (a.loss() != b.loss()) { return a.loss() > b.loss() ? a : b; }
    return a.is_raw() ? b : a;
}

void set_mode(proto::KvMode& out, const KvMode& mode) {
    out.set_codec(std::string(mode.is_raw() ? kRaw : mode.codec->name()));
    out.set_level(mode.level);
    out.set_lossy(mode.is_lossy());
}

}  // namespace kv_transfer
