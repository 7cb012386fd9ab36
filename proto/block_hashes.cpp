#include "proto/block_hashes.h"

#include <cstdint>

namespace sluice::proto {
namespace {

std::uint64_t read_little_endian(const char* bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 8; ++i) {
        value |= std::uint64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
    }
    return value;
}

void write_little_endian(std::uint64_t value, std::string& out) {
    for (std::size_t i = 0; i < 8; ++i) {
        out.push_back(static_cast<char>(value >> (8 * i) & 0xff));
    }
}

}  // namespace

std::string write_block_hashes(std::span<const base::BlockHash> hashes) {
    std::string bytes;
    bytes.reserve(hashes.size() * kBlockHashBytes);
    for (const base::BlockHash& hash : hashes) {
        write_little_endian(hash.high, bytes);
        write_little_endian(hash.low, bytes);
    }
    return bytes;
}

base::Result<std::vector<base::BlockHash>> read_block_hashes(std::string_view bytes) {
    if (bytes.size() % kBlockHashBytes != 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "block hashes of 16 bytes each do not fill " + std::to_string(bytes.size()) + " bytes");
    }
    std::vector<base::BlockHash> hashes(bytes.size() / kBlockHashBytes);
    for (std::size_t i = 0; i < hashes.size(); ++i) {
        hashes[i] = block_hash_at(bytes, i);
    }
    return hashes;
}

base::BlockHash block_hash_at(std::string_view bytes, std::size_t index) {
    const std::string_view hash = bytes.substr(index * kBlockHashBytes, kBlockHashBytes);
    return {.high = read_little_endian(hash.data()), .low = read_little_endian(hash.data() + 8)};
}

}  // namespace sluice::proto
