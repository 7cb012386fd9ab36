#include "bench/swap.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
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

/// Host memory in three ways, in turns: one copy (the limit), one for each tile of the plain paged layout, which has a
/// plane for each layer and K or V and in it a tile for each block, and groups of neighbouring blocks.
Result<std::vector<SwapFigure>> measure_host(const SwapOptions& options, const SwapPlan& plan, kv_cache::KvStore& store,
                                             const Fragmented& pool, const Fragmented& tier) {
    auto access = kv_cache::KvAccess::make(store);
    if (!access) { return base::pass_on(access); }
    const std::size_t block_bytes = store.layout().block_bytes();
    const std::size_t blocks_total = store.blocks_total();
    auto host = kv_transfer::HostTier::make(store, blocks_total * block_bytes);
    if (!host) { return base::pass_on(host); }
    // Of the same kind of memory as the pool, and as large: pages of another size would be another limit.
    auto from = device::host_device().allocate(blocks_total * block_bytes);
    if (!from) { return base::pass_on(from); }
    auto to = device::host_device().allocate(blocks_total * block_bytes);
    if (!to) { return base::pass_on(to); }
    std::memset(from->data(), 1, from->size());  // untouched memory is one page of zeros, and always near
    std::memset(to->data(), 2, to->size());

    const std::size_t planes = std::size_t{2} * options.layers;
    const std::size_t tile = block_bytes / planes;
    const std::size_t blocks = pool.sequences[0].blocks().size();
    const auto move_tiles = [&](std::byte* target_plane, const Fragmented& targets, const std::byte* source_plane,
                                const Fragmented& sources) {
        for (std::uint32_t i = 0; i < options.sequences; ++i) {
            for (std::size_t block = 0; block < blocks; ++block) {
                const std::size_t target = base::raw(targets.sequences[i].blocks()[block]);
                const std::size_t source = base::raw(sources.sequences[i].blocks()[block]);
                for (std::size_t plane = 0; plane < planes; ++plane) {
                    std::memcpy(target_plane + (plane * blocks_total + target) * tile,
                                source_plane + (plane * blocks_total + source) * tile, tile);
                }
            }
        }
    };
    const std::size_t total = options.sequences * blocks * block_bytes;
    SwapMover mover(plan, **host, *access);
    const SwapTrial out[] = {{.move = [&] { std::memcpy(to->data(), from->data(), total); }},
                             {.move = [&] { move_tiles(to->data(), tier, from->data(), pool); }},
                             {.move = [&] { mover.save(); }}};
    const SwapTrial in[] = {{.move = [&] { std::memcpy(from->data(), to->data(), total); }},
                            {.move = [&] { move_tiles(from->data(), pool, to->data(), tier); }},
                            {.move = [&] { mover.load(); }}};
    fill(store, pool, 3);
    const auto rates_out = rates_of(options, total, out);
    fill(store, pool, 99);
    const auto rates_in = rates_of(options, total, in);
    if (mover.error()) { return tl::unexpected(*mover.error()); }
    if (!holds(store, pool, 3)) { return base::fail(ErrorCode::internal, "what came back is not what went out"); }

    std::vector<SwapFigure> figures = {
        {.level = "host", .name = "limit", .copies_per_sequence = 1},
        {.level = "host", .name = "block, layer, K or V", .copies_per_sequence = static_cast<double>(blocks * planes)},
        {.level = "host",
         .name = "groups",
         .copies_per_sequence = static_cast<double>(plan.copies) / options.sequences}};
    const std::vector<double> shares_out = shares_of(rates_out, 1);
    const std::vector<double> shares_in = shares_of(rates_in, 1);
    for (std::size_t i = 0; i < figures.size(); ++i) {
        figures[i].out_bytes_per_s = median(rates_out[i]);
        figures[i].in_bytes_per_s = median(rates_in[i]);
        figures[i].out_of_limit = shares_out[i];
        figures[i].in_of_limit = shares_in[i];
    }
    return figures;
}

boost::json::object json_of(const SwapOptions& options, const std::vector<SwapFigure>& figures,
                            const std::vector<double>& copies) {
    boost::json::array list;
    for (const SwapFigure& figure : figures) {
        list.push_back({{"level", figure.level},
                        {"name", figure.name},
                        {"copies_per_sequence", figure.copies_per_sequence},
                        {"out_bytes_per_s", figure.out_bytes_per_s},
                        {"in_bytes_per_s", figure.in_bytes_per_s},
                        {"out_of_limit", figure.out_of_limit},
                        {"in_of_limit", figure.in_of_limit}});
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
            {"seed", options.seed},
            {"copies_by_seed", boost::json::array(copies.begin(), copies.end())},
            {"figures", std::move(list)},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const SwapOptions& options, const std::vector<SwapFigure>& figures, const std::vector<double>& copies) {
    std::printf(
        "sequences of %u tokens, BF16; %.0f %% of the pool and %.0f %% of the tier in use by others; one thread\n",
        options.tokens, options.used_share * 100, options.tier_used_share * 100);
    std::printf("%-6s %-22s %16s %14s %14s  (%% of the level's best limit in the same turn)\n", "level", "",
                "copies/sequence", "out GB/s", "in GB/s");
    for (const SwapFigure& figure : figures) {
        std::printf("%-6s %-22s %16.1f %8.2f %3.0f %% %8.2f %3.0f %%\n", figure.level.c_str(), figure.name.c_str(),
                    figure.copies_per_sequence, figure.out_bytes_per_s / 1e9, figure.out_of_limit * 100,
                    figure.in_bytes_per_s / 1e9, figure.in_of_limit * 100);
    }
    std::printf("copies of a sequence in groups, %zu seeds: %.2f on average, %.2f at most\n", copies.size(),
                std::accumulate(copies.begin(), copies.end(), 0.0) / static_cast<double>(copies.size()),
                *std::max_element(copies.begin(), copies.end()));
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
    const std::uint32_t blocks_total = blocks_total_of(options);
    std::mt19937 random(options.seed);
    const Fragmented pool(options, options.used_share, blocks_total, random);
    const Fragmented tier(options, options.tier_used_share, blocks_total, random);
    const SwapPlan plan = plan_of(options, pool, tier);

    auto store = kv_cache::KvStore::make(device::host_device(), *layout, blocks_total);
    if (!store) { return base::pass_on(store); }
    auto figures = measure_host(options, plan, *store, pool, tier);
    if (!figures) { return base::pass_on(figures); }
    if (options.disk_folder.empty()) { return figures; }
    auto disk = measure_disk(options, plan, *store, pool);
    if (!disk) { return base::pass_on(disk, "--disk"); }
    figures->insert(figures->end(), disk->begin(), disk->end());
    return figures;
}

std::vector<double> count_copies(const SwapOptions& options) {
    std::vector<double> copies;
    const std::uint32_t blocks_total = blocks_total_of(options);
    for (std::uint32_t placement = 0; placement < options.placements; ++placement) {
        std::mt19937 random(options.seed + placement);
        const Fragmented pool(options, options.used_share, blocks_total, random);
        const Fragmented tier(options, options.tier_used_share, blocks_total, random);
        copies.push_back(static_cast<double>(plan_of(options, pool, tier).copies) / options.sequences);
    }
    return copies;
}

int bench_swap_main(const SwapOptions& options) {
    const auto figures = measure_swaps(options);
    if (!figures) {
        std::fprintf(stderr, "bench swap: %s\n", figures.error().message.c_str());
        return 1;
    }
    const std::vector<double> copies = count_copies(options);
    return tell_figures("bench swap", options.out_path, json_of(options, *figures, copies),
                        [&] { print(options, *figures, copies); });
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
    app.add_option("--placements", options.placements, "seeds, from that one on, for which copies are counted")
        ->check(CLI::Range(1u, 10'000u))
        ->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "How fast the KV of sequences leaves a fragmented pool for the levels below it and comes back, and in how "
        "many\n"
        "copies: in groups of neighbouring blocks, beside a copy for each block, layer, and K or V (the plain paged\n"
        "layout) and the machine's limit (one copy; a file that is written over in pieces). Files go through the page\n"
        "cache and, where that can be, around it, all in turns.");
}

}  // namespace bench
