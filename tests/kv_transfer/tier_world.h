#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <stdlib.h>

#include "base/block_hash.h"
#include "base/log.h"
#include "device/device.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/tier.h"

#include "tests/support/catch.h"

// What the tests of the levels below the pool have in common.
namespace test_support {

constexpr std::uint32_t kBlocks = 16;

inline base::ModelShape small_shape() {
    base::ModelShape shape;
    shape.layers = 3;
    shape.heads_kv = 2;
    shape.heads_q = 2;
    shape.head_dim = 16;  // blocks of 12288 bytes: what direct I/O can move on every disk
    return shape;
}

inline kv_cache::KvLayout make_layout() {
    return kv_cache::KvLayout::make(small_shape(), {kv_cache::KvDtype::f32, kv_cache::TileOrder::lanes}, 16).value();
}

/// A pool whose blocks can be told apart.
struct Pool {
    explicit Pool(device::Device& device = device::host_device(), kv_cache::KvLayout of = make_layout())
        : layout(std::move(of)),
          store(kv_cache::KvStore::make(device, layout, kBlocks).value()),
          access(kv_cache::KvAccess::make(store).value()) {
        base::init_log({.role = "test", .level = "off"});
    }
    void fill(kv_cache::BlockRun run, std::uint8_t with) {
        for (std::uint32_t i = 0; i < run.count; ++i) {
            std::memset(store.block(kv_cache::BlockId{base::raw(run.first) + i}), with + static_cast<int>(i),
                        layout.block_bytes());
        }
    }
    bool holds(kv_cache::BlockRun run, std::uint8_t what) const {
        for (std::uint32_t i = 0; i < run.count; ++i) {
            const std::byte* bytes = store.block(kv_cache::BlockId{base::raw(run.first) + i});
            for (std::size_t at = 0; at < layout.block_bytes(); ++at) {
                if (std::to_integer<unsigned>(bytes[at]) != what + i) { return false; }
            }
        }
        return true;
    }
    kv_cache::KvLayout layout;
    kv_cache::KvStore store;
    kv_cache::KvAccess access;
};

/// A folder of its own, gone afterwards.
struct Folder {
    explicit Folder(const std::filesystem::path& in = std::filesystem::temp_directory_path()) {
        std::string name = (in / "sluice-tier-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::filesystem::path path;
};

/// `page_cache`: one of the two ways, else the other where this machine has it.
inline kv_transfer::FileTier::Options options_of(const Folder& folder, const Pool& pool, std::uint32_t slots,
                                                 bool page_cache) {
    kv_transfer::FileTier::Options options;
    options.folder = folder.path / "tier";
    options.bytes = 4096 + slots * (pool.layout.block_bytes() + 64);
    options.block_bytes = pool.layout.block_bytes();
    options.numerics_id = 7;
    options.layout = pool.layout.format().name();
    options.page_cache = page_cache;
    return options;
}

inline std::vector<base::BlockHash> chain_of(std::uint32_t blocks, std::uint64_t from = 1) {
    std::vector<base::BlockHash> chain;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        chain.push_back({from * 1000, i + 1});
    }
    return chain;
}

inline kv_transfer::TierPiece piece(std::uint32_t block, std::uint32_t slot, std::uint32_t count) {
    return {{kv_cache::BlockId{block}, count}, {kv_cache::BlockId{slot}, count}};
}

}  // namespace test_support
