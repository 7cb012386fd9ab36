#include "kv_transfer/codec/kv_profile.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/crc32c.h"
#include "base/whole_file.h"

namespace kv_transfer {
namespace {

// A file: this header, means, steps, CRC-32C of all before it. Little endian.
struct FileHeader {
    char magic[4] = {'S', 'L', 'K', 'P'};
    std::uint32_t version = 1;
    std::uint64_t numerics_id = 0;
    std::uint32_t layers = 0;
    std::uint32_t kv_heads = 0;
    std::uint32_t head_dim = 0;
    std::uint32_t zero = 0;
};
static_assert(sizeof(FileHeader) == 32);

constexpr std::uint32_t kLayersMax = 4096;
constexpr std::uint32_t kHeadsMax = 4096;
constexpr std::uint32_t kHeadDimMax = 1024;
constexpr std::size_t kChannelsMax = std::size_t{1} << 26;  // of a file that is read

void put(std::vector<std::byte>& out, const void* data, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(data);
    out.insert(out.end(), begin, begin + bytes);
}

}  // namespace

std::vector<std::byte> profile_bytes(const KvProfile& profile) {
    FileHeader header;
    header.numerics_id = profile.numerics_id;
    header.layers = profile.layers;
    header.kv_heads = profile.kv_heads;
    header.head_dim = profile.head_dim;
    std::vector<std::byte> bytes;
    put(bytes, &header, sizeof header);
    put(bytes, profile.means.data(), profile.means.size() * sizeof(float));
    put(bytes, profile.steps.data(), profile.steps.size() * sizeof(float));
    const std::uint32_t crc = base::crc32c(bytes);
    put(bytes, &crc, sizeof crc);
    return bytes;
}

base::Result<KvProfile> profile_from_bytes(std::span<const std::byte> bytes) {
    const auto refuse = [](const std::string& what) {
        return base::fail(base::ErrorCode::data_loss, "KV profile: " + what);
    };
    FileHeader header;
    const FileHeader wanted;
    std::uint32_t crc = 0;
    if (bytes.size() < sizeof header + sizeof crc) { return refuse("too short"); }
    std::memcpy(&header, bytes.data(), sizeof header);
    if (std::memcmp(header.magic, wanted.magic, sizeof wanted.magic) != 0) { return refuse("not one"); }
    if (header.version != wanted.version) {
        return refuse("version " + std::to_string(header.version) + ", this build reads " +
                      std::to_string(wanted.version));
    }
    if (header.layers == 0 || header.kv_heads == 0 || header.head_dim == 0 || header.layers > kLayersMax ||
        header.kv_heads > kHeadsMax || header.head_dim > kHeadDimMax) {
        return refuse("a shape that no model has");
    }
    KvProfile profile;
    profile.numerics_id = header.numerics_id;
    profile.layers = header.layers;
    profile.kv_heads = header.kv_heads;
    profile.head_dim = header.head_dim;
    const std::size_t channels = profile.channels();
    if (channels > kChannelsMax || bytes.size() != sizeof header + 2 * channels * sizeof(float) + sizeof crc) {
        return refuse(std::to_string(bytes.size()) + " bytes do not fit its shape");
    }
    std::memcpy(&crc, bytes.data() + bytes.size() - sizeof crc, sizeof crc);
    if (crc != base::crc32c(bytes.first(bytes.size() - sizeof crc))) { return refuse("the checksum is another"); }
    profile.means.resize(channels);
    profile.steps.resize(channels);
    std::memcpy(profile.means.data(), bytes.data() + sizeof header, channels * sizeof(float));
    std::memcpy(profile.steps.data(), bytes.data() + sizeof header + channels * sizeof(float),
                channels * sizeof(float));
    for (std::size_t i = 0; i < channels; ++i) {
        if (!std::isfinite(profile.means[i]) || !(profile.steps[i] >= 1e-30f) || !(profile.steps[i] <= 1e30f)) {
            return refuse("a mean or a step that is no number");
        }
    }
    return profile;
}

std::uint32_t KvProfile::id() const {
    const std::vector<std::byte> bytes = profile_bytes(*this);
    // Without the file's own checksum: with it that of every file is the same.
    const std::uint32_t crc = base::crc32c(std::span(bytes).first(bytes.size() - sizeof(std::uint32_t)));
    return crc == 0 ? 1 : crc;
}

base::Result<void> KvProfile::fits(const kv_cache::KvLayout& layout, std::uint64_t numerics) const {
    if (layers != layout.layers() || kv_heads != layout.kv_heads() || head_dim != layout.head_dim()) {
        return base::fail(base::ErrorCode::failed_precondition,
                          "the KV profile is of " + std::to_string(layers) + " layers, " + std::to_string(kv_heads) +
                              " heads of " + std::to_string(head_dim) + ", the model has " +
                              std::to_string(layout.layers()) + ", " + std::to_string(layout.kv_heads()) + " of " +
                              std::to_string(layout.head_dim()) + ": make one with sluice kv calibrate");
    }
    if (numerics_id != numerics) {
        return base::fail(base::ErrorCode::failed_precondition,
                          "the KV profile is of numerics id " + std::to_string(numerics_id) + ", the model has " +
                              std::to_string(numerics) + ": make one with sluice kv calibrate");
    }
    return {};
}

base::Result<void> write_profile(const KvProfile& profile, const std::string& path) {
    const std::vector<std::byte> bytes = profile_bytes(profile);
    return base::write_whole_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

base::Result<KvProfile> read_profile(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) { return base::fail(base::ErrorCode::not_found, "cannot read " + path); }
    const auto size = static_cast<std::int64_t>(file.tellg());
    if (size < 0 || size > static_cast<std::int64_t>(kChannelsMax) * 8 + 64) {
        return base::fail(base::ErrorCode::data_loss, path + ": too large for a KV profile");
    }
    std::vector<char> bytes(static_cast<std::size_t>(size));
    file.seekg(0);
    if (!file.read(bytes.data(), size)) { return base::fail(base::ErrorCode::data_loss, "cannot read all of " + path); }
    auto profile = profile_from_bytes(std::as_bytes(std::span(bytes)));
    if (!profile) { return base::pass_on(profile, path); }
    return profile;
}

}  // namespace kv_transfer
