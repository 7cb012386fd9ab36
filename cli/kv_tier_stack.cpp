#include "cli/kv_tier_stack.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "cli/process.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"

namespace cli {

namespace fs = std::filesystem;
using base::ErrorCode;

namespace {

constexpr std::uint32_t kFoldersMax = 64;  // workers of one model with one kv_disk.path
constexpr std::uint64_t kDiskBytes = std::uint64_t{16} << 30;
constexpr double kHostBytesPerSecond = 1e9;  // that host memory gives at least, coded too, until it is known

/// The first folder of this model that no other process has.
base::Result<std::unique_ptr<kv_transfer::FileTier>> open_file_tier(const KvTierStack::Setup& setup,
                                                                    engine::Engine& engine) {
    kv_transfer::FileTier::Options options;
    options.bytes = setup.settings.disk_bytes;
    options.block_bytes = engine.layout().block_bytes();
    options.numerics_id = static_cast<std::uint64_t>(engine.numerics_id());
    options.layout = engine.layout().format().name();
    options.hash_key = setup.hash_key;
    options.page_cache = setup.settings.disk_page_cache;
    options.coding = setup.settings.disk_coding;
    if (options.coding == kv_transfer::TierCoding::automatic && !kv_transfer::BlockCoder::takes(engine.layout())) {
        options.coding = kv_transfer::TierCoding::raw;
    }
    options.pool = engine.layout();
    options.depth = setup.settings.disk_depth;
    options.device = &engine.kv_store().device();
    for (std::uint32_t number = 0;; ++number) {
        options.folder = fs::path(setup.settings.disk_path) / fmt::format("{:016x}-{}", options.numerics_id, number);
        auto tier = kv_transfer::FileTier::open(options);
        const bool is_taken = !tier && tier.error().code == ErrorCode::failed_precondition;
        if (!is_taken || number + 1 == kFoldersMax) { return tier; }
    }
}

}  // namespace

KvTierSettings read_kv_tiers(base::Config& config) {
    KvTierSettings settings;
    settings.host_bytes = static_cast<std::uint64_t>(config.integer("engine.kv_host_bytes", 0, 0));
    settings.host_coded = config.choice("engine.kv_host_codec", "raw", {"raw", "exact"}) == "exact";
    settings.disk_path = config.string("engine.kv_disk.path", "");
    settings.disk_bytes =
        static_cast<std::uint64_t>(config.integer("engine.kv_disk.bytes", static_cast<std::int64_t>(kDiskBytes), 1));
    settings.disk_page_cache = config.choice("engine.kv_disk.io", "auto", {"auto", "page_cache"}) == "page_cache";
    settings.disk_depth =
        static_cast<std::uint32_t>(config.integer("engine.kv_disk.queue_depth", 8, 1, kv_transfer::kDirectDepthMax));
    settings.disk_coding = read_tier_coding(config, "engine.kv_disk.codec");
    settings.s3 = read_s3_level(config);
    return settings;
}

base::Result<base::HashKey> kept_key(const KvTierSettings& settings) {
    if (settings.disk_path.empty()) {
        return base::fail(ErrorCode::invalid_argument,
                          "engine.kv_s3 needs a key that stays, under which KV is named and sealed: umask 077; openssl "
                          "rand -hex 16 > FILE; --set cluster.key_file=FILE");
    }
    const fs::path folder(settings.disk_path);
    std::error_code error;
    if (fs::create_directories(folder, error)) { fs::permissions(folder, fs::perms::owner_all, error); }
    if (error) {
        return base::fail(ErrorCode::permission_denied,
                          fmt::format("engine.kv_disk.path: cannot make {}: {}", folder.string(), error.message()));
    }
    const fs::path file = folder / "cluster.key";
    if (fs::exists(file, error)) { return read_key_file(file.string()); }
    // Written whole under another name first: another process may look for it now, and whoever is first keeps it.
    std::string draft = (folder / "cluster.key.XXXXXX").string();
    const int made = ::mkostemp(draft.data(), O_CLOEXEC);  // 0600
    if (made < 0) {
        return base::fail(ErrorCode::permission_denied, fmt::format("engine.kv_disk.path: cannot make {}: {}", draft,
                                                                    std::generic_category().message(errno)));
    }
    const std::string text = base::format_hash_key(base::random_hash_key()) + "\n";
    const bool is_written = ::write(made, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(made);
    const bool is_there = is_written && (::link(draft.c_str(), file.c_str()) == 0 || errno == EEXIST);
    fs::remove(draft, error);
    if (!is_there) {
        return base::fail(ErrorCode::resource_exhausted, "engine.kv_disk.path: cannot write " + file.string());
    }
    return read_key_file(file.string());
}

std::size_t KvTierStack::events_max(const KvTierSettings& settings) {
    return settings.levels().size() * kv_transfer::TierCopier::events_max(worker::kTierJobsMax);
}

std::vector<kv_cache::KvCache*> KvTierStack::slots() const {
    std::vector<kv_cache::KvCache*> slots;
    for (const auto& of_tier : slots_) {
        slots.push_back(of_tier.get());
    }
    return slots;
}

base::Result<void> KvTierStack::add(std::string name, std::unique_ptr<kv_transfer::TierBytes> bytes,
                                    std::uint32_t save_blocks, engine::Engine& engine, const base::Clock& clock) {
    const std::size_t block_bytes = engine.layout().block_bytes();
    slots_.push_back(std::make_unique<kv_cache::KvCache>(kv_cache::KvCache::Options{
        .blocks_total = bytes->slots_total(), .block_tokens = engine.layout().block_tokens()}));
    description_ +=
        fmt::format("{}{} {} MiB", description_.empty() ? "" : ", ", name, bytes->slots_total() * block_bytes >> 20);
    auto copier = kv_transfer::TierCopier::start(
        engine.kv_store(), std::move(bytes), worker::kTierJobsMax, clock,
        [this, tier = copiers_.size()](kv_transfer::TierEvent event) { tiers_->on_event(tier, std::move(event)); });
    if (!copier) { return base::pass_on(copier); }
    copiers_.push_back(std::move(*copier));
    parts_.push_back({std::move(name), slots_.back().get(), copiers_.back().get(), save_blocks, block_bytes});
    return {};
}

base::Result<void> KvTierStack::add_host(const Setup& setup, engine::Engine& engine, const base::Clock& clock) {
    std::unique_ptr<kv_transfer::BlockCoder> coder;
    if (setup.settings.host_coded) {
        auto made = kv_transfer::BlockCoder::make(engine.layout(), static_cast<std::uint64_t>(engine.numerics_id()),
                                                  engine.kv_store().device());
        if (!made) { return base::pass_on(made, "engine.kv_host_codec"); }
        coder = std::move(*made);
    }
    auto bytes = kv_transfer::HostTier::make(engine.kv_store(), setup.settings.host_bytes, std::move(coder));
    if (!bytes) { return base::pass_on(bytes); }
    if (auto added = add("host", std::move(*bytes), worker::kTierSaveBlocks, engine, clock); !added) { return added; }
    const double seconds = static_cast<double>(engine.layout().block_bytes()) / kHostBytesPerSecond;
    parts_.back().load_time = std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
    return {};
}

base::Result<void> KvTierStack::add_disk(const Setup& setup, engine::Engine& engine, const base::Clock& clock,
                                         base::Metrics& metrics) {
    auto bytes = open_file_tier(setup, engine);
    if (!bytes) { return base::pass_on(bytes, "engine.kv_disk"); }
    const auto found = (*bytes)->found();
    const auto load_time = (*bytes)->load_time();
    const bool is_direct = (*bytes)->way() == "direct";
    if (const std::string& why = (*bytes)->why_not_direct(); !why.empty()) {
        spdlog::info("engine.kv_disk: through the page cache: {}", why);
    }
    metrics
        .gauge("sluice_kv_tier_direct_io", "1: the disk level goes around the page cache by io_uring; 0: through it",
               {{"worker", setup.worker}})
        .Set(is_direct ? 1 : 0);
    if (auto added = add("disk", std::move(*bytes), 0, engine, clock); !added) { return added; }
    parts_.back().load_time = load_time;
    for (const auto& block : found) {
        slots_.back()->adopt(base::BlockId{block.slot}, block.hash, block.parent);
    }
    description_ += fmt::format(" ({} blocks found, {})", found.size(), is_direct ? "direct I/O" : "page cache");
    return {};
}

base::Result<void> KvTierStack::add_s3(const Setup& setup, engine::Engine& engine, const base::Clock& clock,
                                       base::Metrics& metrics) {
    using kv_transfer::TierCoding;
    kv_transfer::S3Tier::Options options = setup.settings.s3.options;
    const TierCoding coding = setup.settings.s3.coding;
    options.is_coded = coding == TierCoding::exact ||
                       (coding == TierCoding::automatic && kv_transfer::BlockCoder::takes(engine.layout()));
    options.store.credentials = setup.settings.s3.credentials();
    options.numerics_id = static_cast<std::uint64_t>(engine.numerics_id());
    options.layout = engine.layout().format().name();
    options.hash_key = setup.hash_key;
    options.worker = setup.worker;
    auto bytes = kv_transfer::S3Tier::open(engine.kv_store(), std::move(options), clock, metrics);
    if (!bytes) { return base::pass_on(bytes); }
    if (const auto& why = (*bytes)->why_not_all()) {
        spdlog::warn("engine.kv_s3: not all that the store has is known: {}", base::log_safe(why->message));
    }
    const auto found = (*bytes)->found();
    if (auto added = add("s3", std::move(*bytes), 0, engine, clock); !added) { return added; }
    for (const auto& [slot, block] : found) {
        slots_.back()->adopt(base::BlockId{slot}, block.hash, block.parent);
    }
    description_ += fmt::format(" ({} blocks found)", found.size());
    return {};
}

base::Result<std::unique_ptr<KvTierStack>> KvTierStack::start(const Setup& setup, engine::Engine& engine,
                                                              worker::StepControl& control, const base::Clock& clock,
                                                              base::Metrics& metrics) {
    std::unique_ptr<KvTierStack> stack(new KvTierStack());
    if (setup.settings.host_bytes > 0) {
        if (auto added = stack->add_host(setup, engine, clock); !added) { return base::pass_on(added); }
    }
    if (!setup.settings.disk_path.empty()) {
        if (auto added = stack->add_disk(setup, engine, clock, metrics); !added) { return base::pass_on(added); }
    }
    if (setup.settings.s3.is_on()) {
        if (auto added = stack->add_s3(setup, engine, clock, metrics); !added) { return base::pass_on(added); }
    }
    stack->tiers_ = std::make_unique<worker::KvTiersPart>(stack->parts_, setup.limits, control, setup.worker, metrics);
    return stack;
}

}  // namespace cli
