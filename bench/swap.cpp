#include "bench/swap.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>

#include "base/check.h"
#include "base/model_shape.h"
#include "bench/report_json.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"

namespace bench {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;
using kv_cache::KvCache;
using kv_cache::SequenceKv;
using kv_transfer::TierPiece;

constexpr std::uint32_t kBlockTokens = 16;
constexpr std::uint32_t kPieceBlocks = 32;           // the largest of those that fragment a pool
constexpr std::uint32_t kGrowBlocks = 4;             // that a sequence gets in turn with the others
constexpr std::size_t kFilePieceBytes = 512u << 10;  // as FileTier's

double now_seconds(bool processor_time) {
    timespec time{};
    ::clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// A pool, or a tier, of which a share is in use in scattered pieces, and the sequences of a sample in the rest.
struct Fragmented {
    Fragmented(const SwapOptions& options, double used_share, std::uint32_t blocks_total, std::mt19937& random)
        : cache({.blocks_total = blocks_total, .block_tokens = kBlockTokens}) {
        std::vector<SequenceKv> pieces;
        std::uniform_int_distribution<std::uint32_t> size(1, kPieceBlocks);
        while (cache.pool().blocks_free() > 0) {
            const std::uint32_t blocks = std::min(size(random), cache.pool().blocks_free());
            pieces.push_back(std::move(*cache.open({}, blocks * kBlockTokens)));
        }
        std::shuffle(pieces.begin(), pieces.end(), random);
        const auto wanted = static_cast<std::uint32_t>((1 - used_share) * blocks_total);
        while (!pieces.empty() && cache.pool().blocks_free() < wanted) {
            pieces.pop_back();
        }
        others = std::move(pieces);
        // They grow in turns, as sequences of one batch do.
        const std::uint32_t blocks = cache.blocks_for(options.tokens);
        for (std::uint32_t have = 0; have < blocks;) {
            have = std::min(have + (have == 0 ? blocks / 2 + 1 : kGrowBlocks), blocks);
            for (std::uint32_t i = 0; i < options.sequences; ++i) {
                if (i == sequences.size()) {
                    sequences.push_back(std::move(*cache.open({}, have * kBlockTokens)));
                } else {
                    CHECK(sequences[i].reserve(have * kBlockTokens));
                }
            }
        }
    }
    KvCache cache;
    std::vector<SequenceKv> others;
    std::vector<SequenceKv> sequences;
};

/// Median bytes a second; `prepare` is not counted.
double rate_of(const SwapOptions& options, std::size_t bytes, const std::function<void()>& move,
               const std::function<void()>& prepare = {}) {
    move();
    std::vector<double> rates;
    for (std::uint32_t sample = 0; sample < options.samples; ++sample) {
        if (prepare) { prepare(); }
        const double begin = now_seconds(options.processor_time);
        move();
        rates.push_back(static_cast<double>(bytes) / (now_seconds(options.processor_time) - begin));
    }
    std::nth_element(rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2), rates.end());
    return rates[rates.size() / 2];
}

/// What is to be moved, by sequence.
struct Plan {
    std::vector<std::vector<TierPiece>> pieces;
    std::vector<std::vector<base::BlockHash>> names;
    std::size_t copies = 0;
};

Plan plan_of(const SwapOptions& options, const Fragmented& pool, const Fragmented& tier) {
    Plan plan;
    for (std::uint32_t i = 0; i < options.sequences; ++i) {
        plan.pieces.push_back(kv_transfer::tier_pieces(pool.sequences[i].blocks(), tier.sequences[i].blocks()));
        plan.copies += plan.pieces.back().size();
        std::vector<base::BlockHash> names;
        for (std::uint64_t block = 0; block < pool.sequences[i].blocks().size(); ++block) {
            names.push_back({i + 1, block + 1});
        }
        plan.names.push_back(std::move(names));
    }
    return plan;
}

void fill(kv_cache::KvStore& store, const Fragmented& pool, unsigned with) {
    for (const SequenceKv& sequence : pool.sequences) {
        unsigned number = with;
        for (const base::BlockId id : sequence.blocks()) {
            std::memset(store.block(id), static_cast<int>(number++ % 251), store.layout().block_bytes());
        }
    }
}

bool holds(const kv_cache::KvStore& store, const Fragmented& pool, unsigned what) {
    for (const SequenceKv& sequence : pool.sequences) {
        unsigned number = what;
        for (const base::BlockId id : sequence.blocks()) {
            const auto expected = static_cast<std::byte>(number++ % 251);
            if (store.block(id)[0] != expected || store.block(id)[store.layout().block_bytes() - 1] != expected) {
                return false;
            }
        }
    }
    return true;
}

/// A file as the disk has it, where that is asked for: a sync after writing, nothing in the page cache before reading.
class OnDisk {
public:
    OnDisk(const SwapOptions& options, const fs::path& path)
        : file_(options.synced ? ::open(path.c_str(), O_RDWR | O_CLOEXEC) : -1) {}
    OnDisk(const OnDisk&) = delete;
    OnDisk& operator=(const OnDisk&) = delete;
    ~OnDisk() {
        if (file_ >= 0) { ::close(file_); }
    }
    void sync() const {
        if (file_ >= 0) { ::fdatasync(file_); }
    }
    void forget() const {
        if (file_ >= 0) {
            ::fdatasync(file_);
            ::posix_fadvise(file_, 0, 0, POSIX_FADV_DONTNEED);
        }
    }

private:
    int file_;
};

Result<SwapFigure> measure_tier(const SwapOptions& options, kv_transfer::TierBytes& bytes, const Plan& plan,
                                kv_cache::KvStore& store, const Fragmented& pool, std::string level,
                                const fs::path& file) {
    auto access = kv_cache::KvAccess::make(store);
    if (!access) { return base::pass_on(access); }
    const std::size_t total = options.sequences * pool.sequences[0].blocks().size() * store.layout().block_bytes();
    SwapFigure figure{.level = std::move(level), .name = "groups"};
    figure.copies_per_sequence = static_cast<double>(plan.copies) / options.sequences;
    std::optional<base::Error> error;
    const auto each = [&](const auto& move) {
        for (std::uint32_t i = 0; i < options.sequences; ++i) {
            std::span<const base::BlockHash> names(plan.names[i]);
            std::optional<base::BlockHash> parent;
            for (const TierPiece& piece : plan.pieces[i]) {
                move(piece, names.first(piece.blocks.count), parent);
                parent = names[piece.blocks.count - 1];
                names = names.subspan(piece.blocks.count);
            }
        }
    };
    const OnDisk disk(options, file);
    fill(store, pool, 3);
    figure.out_bytes_per_s = rate_of(options, total, [&] {
        each([&](const TierPiece& piece, auto names, auto parent) {
            if (auto saved = bytes.save(*access, piece, names, parent); !saved) { error = saved.error(); }
        });
        disk.sync();
    });
    fill(store, pool, 99);
    const auto load = [&] {
        each([&](const TierPiece& piece, auto names, auto) {
            const auto loaded = bytes.load(*access, piece, names);
            if (!loaded) { error = loaded.error(); }
        });
    };
    figure.in_bytes_per_s = rate_of(options, total, load, [&] { disk.forget(); });
    if (error) { return tl::unexpected(*error); }
    if (!holds(store, pool, 3)) { return base::fail(ErrorCode::internal, "what came back is not what went out"); }
    return figure;
}

/// The plain paged layout: a plane for each layer and K or V, in it a tile for each block; so a block is as many
/// copies.
SwapFigure measure_paged(const SwapOptions& options, const kv_cache::KvLayout& layout, const Fragmented& pool,
                         const Fragmented& tier, std::uint32_t blocks_total, std::span<std::byte> pool_bytes,
                         std::span<std::byte> tier_bytes) {
    const std::size_t planes = std::size_t{2} * options.layers;
    const std::size_t tile = layout.block_bytes() / planes;
    const std::size_t blocks = pool.sequences[0].blocks().size();
    const auto move = [&](std::span<std::byte> to, const Fragmented& to_places, std::span<std::byte> from,
                          const Fragmented& from_places) {
        for (std::uint32_t i = 0; i < options.sequences; ++i) {
            for (std::size_t block = 0; block < blocks; ++block) {
                const std::size_t target = base::raw(to_places.sequences[i].blocks()[block]);
                const std::size_t source = base::raw(from_places.sequences[i].blocks()[block]);
                for (std::size_t plane = 0; plane < planes; ++plane) {
                    std::memcpy(to.data() + (plane * blocks_total + target) * tile,
                                from.data() + (plane * blocks_total + source) * tile, tile);
                }
            }
        }
    };
    const std::size_t total = options.sequences * blocks * layout.block_bytes();
    SwapFigure figure{.level = "host", .name = "block, layer, K or V"};
    figure.copies_per_sequence = static_cast<double>(blocks * planes);
    figure.out_bytes_per_s = rate_of(options, total, [&] { move(tier_bytes, tier, pool_bytes, pool); });
    figure.in_bytes_per_s = rate_of(options, total, [&] { move(pool_bytes, pool, tier_bytes, tier); });
    return figure;
}

/// A file of the same size, written over and read in pieces.
Result<SwapFigure> measure_file(const SwapOptions& options, const fs::path& path, std::size_t bytes) {
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) { return base::fail(ErrorCode::unavailable, "cannot open " + path.string()); }
    std::vector<std::byte> memory(bytes, std::byte{5});  // as large as what is swapped: no piece stays in a cache
    bool is_good = true;
    const auto each = [&](auto&& call) {
        for (std::size_t at = 0; at < bytes; at += kFilePieceBytes) {
            const std::size_t count = std::min(kFilePieceBytes, bytes - at);
            is_good = call(memory.data() + at, count, static_cast<off_t>(at)) == static_cast<ssize_t>(count) && is_good;
        }
    };
    SwapFigure figure{.level = "disk", .name = "limit"};
    const OnDisk disk(options, path);
    figure.out_bytes_per_s = rate_of(options, bytes, [&] {
        each([&](std::byte* data, std::size_t count, off_t at) { return ::pwrite(file, data, count, at); });
        disk.sync();
    });
    const auto read = [&] {
        each([&](std::byte* data, std::size_t count, off_t at) { return ::pread(file, data, count, at); });
    };
    figure.in_bytes_per_s = rate_of(options, bytes, read, [&] { disk.forget(); });
    ::close(file);
    std::error_code ignored;
    fs::remove(path, ignored);
    if (!is_good) { return base::fail(ErrorCode::unavailable, "cannot write and read " + path.string()); }
    return figure;
}

boost::json::object json_of(const SwapOptions& options, const std::vector<SwapFigure>& figures) {
    boost::json::array list;
    for (const SwapFigure& figure : figures) {
        list.push_back({{"level", figure.level},
                        {"name", figure.name},
                        {"copies_per_sequence", figure.copies_per_sequence},
                        {"out_bytes_per_s", figure.out_bytes_per_s},
                        {"in_bytes_per_s", figure.in_bytes_per_s}});
    }
    return {{"layers", options.layers},
            {"kv_heads", options.kv_heads},
            {"head_dim", options.head_dim},
            {"tokens", options.tokens},
            {"sequences", options.sequences},
            {"used_share", options.used_share},
            {"tier_used_share", options.tier_used_share},
            {"samples", options.samples},
            {"processor_time", options.processor_time},
            {"synced", options.synced},
            {"threads", 1},
            {"figures", std::move(list)},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const SwapOptions& options, const std::vector<SwapFigure>& figures) {
    std::printf(
        "sequences of %u tokens, BF16; %.0f %% of the pool and %.0f %% of the tier in use by others; one thread\n",
        options.tokens, options.used_share * 100, options.tier_used_share * 100);
    std::printf("%-6s %-22s %16s %10s %10s\n", "level", "", "copies/sequence", "out GB/s", "in GB/s");
    for (const SwapFigure& figure : figures) {
        std::printf("%-6s %-22s %16.1f %10.2f %10.2f\n", figure.level.c_str(), figure.name.c_str(),
                    figure.copies_per_sequence, figure.out_bytes_per_s / 1e9, figure.in_bytes_per_s / 1e9);
    }
}

}  // namespace

Result<std::vector<SwapFigure>> measure_swaps(const SwapOptions& options) {
    base::ModelShape shape;
    shape.layers = options.layers;
    shape.heads_q = options.kv_heads;
    shape.heads_kv = options.kv_heads;
    shape.head_dim = options.head_dim;
    const auto layout = kv_cache::KvLayout::make(shape, {}, kBlockTokens);
    if (!layout) { return base::pass_on(layout); }
    const std::uint32_t blocks = layout->blocks_for(options.tokens) * options.sequences;
    const auto blocks_total =
        static_cast<std::uint32_t>(blocks / (1 - std::max(options.used_share, options.tier_used_share)) * 1.25);
    const std::size_t bytes = blocks * layout->block_bytes();
    std::mt19937 random(options.seed);
    const Fragmented pool(options, options.used_share, blocks_total, random);
    const Fragmented tier(options, options.tier_used_share, blocks_total, random);
    const Plan plan = plan_of(options, pool, tier);

    std::vector<SwapFigure> figures;
    {
        std::vector<std::byte> from(blocks_total * layout->block_bytes(), std::byte{1});
        std::vector<std::byte> to(from.size(), std::byte{2});
        SwapFigure limit{.level = "host", .name = "limit"};
        limit.copies_per_sequence = 1;
        limit.out_bytes_per_s = rate_of(options, bytes, [&] { std::memcpy(to.data(), from.data(), bytes); });
        limit.in_bytes_per_s = rate_of(options, bytes, [&] { std::memcpy(from.data(), to.data(), bytes); });
        figures.push_back(limit);
        figures.push_back(measure_paged(options, *layout, pool, tier, blocks_total, from, to));
    }
    auto store = kv_cache::KvStore::make(device::host_device(), *layout, blocks_total);
    if (!store) { return base::pass_on(store); }
    {
        auto host = kv_transfer::HostTier::make(*store, blocks_total * layout->block_bytes());
        if (!host) { return base::pass_on(host); }
        auto figure = measure_tier(options, **host, plan, *store, pool, "host", {});
        if (!figure) { return base::pass_on(figure); }
        figures.push_back(*figure);
    }
    if (options.disk_folder.empty()) { return figures; }
    std::error_code error;
    fs::create_directories(options.disk_folder, error);
    const fs::path folder = fs::path(options.disk_folder) / "bench-swap";
    auto limit = measure_file(options, fs::path(options.disk_folder) / "bench-swap.limit", bytes);
    if (!limit) { return base::pass_on(limit, "--disk"); }
    limit->copies_per_sequence = 1;
    figures.push_back(*limit);
    kv_transfer::FileTier::Options file;
    file.folder = folder;
    file.bytes = std::uint64_t{blocks_total + 1} * (layout->block_bytes() + 4096);
    file.block_bytes = layout->block_bytes();
    file.layout = layout->format().name();
    auto disk = kv_transfer::FileTier::open(file);
    if (!disk) { return base::pass_on(disk, "--disk"); }
    auto figure = measure_tier(options, **disk, plan, *store, pool, "disk", folder / "blocks");
    disk->reset();
    fs::remove_all(folder, error);
    if (!figure) { return base::pass_on(figure, "--disk"); }
    figures.push_back(*figure);
    return figures;
}

int bench_swap_main(const SwapOptions& options) {
    const auto figures = measure_swaps(options);
    if (!figures) {
        std::fprintf(stderr, "bench swap: %s\n", figures.error().message.c_str());
        return 1;
    }
    return tell_figures("bench swap", options.out_path, json_of(options, *figures), [&] { print(options, *figures); });
}

void add_bench_swap(CLI::App& app, SwapOptions& options) {
    app.add_option("--layers", options.layers)->check(CLI::Range(1u, 128u))->capture_default_str();
    app.add_option("--kv-heads", options.kv_heads)->check(CLI::Range(1u, 128u))->capture_default_str();
    app.add_option("--head-dim", options.head_dim)->check(CLI::Range(16u, 256u))->capture_default_str();
    app.add_option("--tokens", options.tokens, "of a sequence that is swapped")
        ->check(CLI::Range(16u, 131072u))
        ->capture_default_str();
    app.add_option("--sequences", options.sequences, "of each sample")
        ->check(CLI::Range(1u, 4096u))
        ->capture_default_str();
    app.add_option("--used", options.used_share, "share of the pool that others use, scattered")
        ->check(CLI::Range(0.0, 0.95))
        ->capture_default_str();
    app.add_option("--tier-used", options.tier_used_share, "and of the tier")
        ->check(CLI::Range(0.0, 0.95))
        ->capture_default_str();
    app.add_option("--samples", options.samples, "of each figure")->check(CLI::Range(1u, 1000u))->capture_default_str();
    app.add_flag("--processor-time", options.processor_time,
                 "instead of the wall clock: for a machine that others use");
    app.add_flag("--synced", options.synced,
                 "files count as written when the disk has them, and are not read from the page cache");
    app.add_option("--disk", options.disk_folder, "folder on the disk to try; none: host memory only");
    app.add_option("--seed", options.seed, "of where the others lie")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "How fast the KV of sequences leaves a fragmented pool for the levels below it and comes back, and in how "
        "many\n"
        "copies: in groups of neighbouring blocks, beside a copy for each block, layer, and K or V (the plain paged\n"
        "layout) and the machine's limit (one copy; a file that is written over in pieces).");
}

}  // namespace bench
