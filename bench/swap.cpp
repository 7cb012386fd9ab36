#include "bench/swap.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>

#include "base/check.h"
#include "base/model_shape.h"
#include "bench/report_json.h"
#include "bench/swap_parts.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/file_io.h"
#include "kv_transfer/tier/host_tier.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::uint32_t kBlockTokens = 16;

/// Median bytes a second.
double rate_of(const SwapOptions& options, std::size_t bytes, std::function<void()> move) {
    const SwapTrial trial{.move = std::move(move)};
    return median(rates_of(options, bytes, std::span(&trial, 1))[0]);
}

Result<SwapFigure> measure_host(const SwapOptions& options, kv_transfer::TierBytes& bytes, const SwapPlan& plan,
                                kv_cache::KvStore& store, const Fragmented& pool) {
    auto access = kv_cache::KvAccess::make(store);
    if (!access) { return base::pass_on(access); }
    const std::size_t total = options.sequences * pool.sequences[0].blocks().size() * store.layout().block_bytes();
    SwapFigure figure{.level = "host", .name = "groups"};
    figure.copies_per_sequence = static_cast<double>(plan.copies) / options.sequences;
    SwapMover mover(plan, bytes, *access);
    fill(store, pool, 3);
    figure.out_bytes_per_s = rate_of(options, total, [&] { mover.save(); });
    fill(store, pool, 99);
    figure.in_bytes_per_s = rate_of(options, total, [&] { mover.load(); });
    if (mover.error()) { return tl::unexpected(*mover.error()); }
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

boost::json::object json_of(const SwapOptions& options, const std::vector<SwapFigure>& figures) {
    boost::json::array list;
    for (const SwapFigure& figure : figures) {
        list.push_back({{"level", figure.level},
                        {"name", figure.name},
                        {"copies_per_sequence", figure.copies_per_sequence},
                        {"out_bytes_per_s", figure.out_bytes_per_s},
                        {"in_bytes_per_s", figure.in_bytes_per_s}});
        if (figure.level == "disk") {
            list.back().as_object()["out_of_limit"] = figure.out_of_limit;
            list.back().as_object()["in_of_limit"] = figure.in_of_limit;
        }
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
            {"queue_depth", options.queue_depth},
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
        std::printf("%-6s %-22s %16.1f %10.2f %10.2f", figure.level.c_str(), figure.name.c_str(),
                    figure.copies_per_sequence, figure.out_bytes_per_s / 1e9, figure.in_bytes_per_s / 1e9);
        if (figure.level == "disk") {
            std::printf("  (%.0f %% and %.0f %% of the better limit in the same turn)", figure.out_of_limit * 100,
                        figure.in_of_limit * 100);
        }
        std::printf("\n");
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
    const SwapPlan plan = plan_of(options, pool, tier);

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
        auto figure = measure_host(options, **host, plan, *store, pool);
        if (!figure) { return base::pass_on(figure); }
        figures.push_back(*figure);
    }
    if (options.disk_folder.empty()) { return figures; }
    auto disk = measure_disk(options, plan, *store, pool);
    if (!disk) { return base::pass_on(disk, "--disk"); }
    figures.insert(figures.end(), disk->begin(), disk->end());
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
    app.add_option("--layers", options.layers, "of the model whose KV is moved")
        ->check(CLI::Range(1u, 128u))
        ->capture_default_str();
    app.add_option("--kv-heads", options.kv_heads, "of a layer")->check(CLI::Range(1u, 128u))->capture_default_str();
    app.add_option("--head-dim", options.head_dim, "values of a head")
        ->check(CLI::Range(16u, 256u))
        ->capture_default_str();
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
    app.add_option("--queue-depth", options.queue_depth, "pieces on their way at once, around the page cache")
        ->check(CLI::Range(1u, kv_transfer::kDirectDepthMax))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of where the others lie")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "How fast the KV of sequences leaves a fragmented pool for the levels below it and comes back, and in how "
        "many\n"
        "copies: in groups of neighbouring blocks, beside a copy for each block, layer, and K or V (the plain paged\n"
        "layout) and the machine's limit (one copy; a file that is written over in pieces). Files go through the page\n"
        "cache and, where that can be, around it, all in turns.");
}

}  // namespace bench
