// The bytes of the tiers below the KV pool: what is saved comes back, also in another life, and nothing else does.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "kv_cache/kv_access.h"
#include "kv_cache/kv_store.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"
#include "kv_transfer/tier/tier_copier.h"

#include "tests/kv_transfer/tier_world.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace fs = std::filesystem;
using base::BlockHash;
using base::ErrorCode;
using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_transfer::FileTier;
using kv_transfer::HostTier;
using kv_transfer::TierCopier;
using kv_transfer::TierEvent;
using kv_transfer::TierJob;
using kv_transfer::TierPiece;
using test_support::chain_of;
using test_support::Folder;
using test_support::kBlocks;
using test_support::options_of;
using test_support::piece;
using test_support::Pool;

namespace {

void flip_byte(const fs::path& file, std::streamoff at) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at);
    const char byte = static_cast<char>(stream.get());
    stream.seekp(at);
    stream.put(static_cast<char>(byte ^ 1));
    REQUIRE(stream.good());
}

/// Lets as many pass as it was opened for.
class Gate {
public:
    void open(int times = 1) {
        {
            const std::scoped_lock lock(mutex_);
            times_ += times;
        }
        opened_.notify_all();
    }
    void pass() {
        std::unique_lock lock(mutex_);
        CHECK(opened_.wait_for(lock, std::chrono::minutes(5), [this] { return times_ > 0; }));
        --times_;
    }

private:
    std::mutex mutex_;
    std::condition_variable opened_;
    int times_ = 0;  // guarded by mutex_
};

}  // namespace

TEST_CASE("pieces are what lies side by side in the pool and in the tier", "[kv_transfer]") {
    const std::array blocks{BlockId{4}, BlockId{5}, BlockId{6}, BlockId{9}, BlockId{10}};
    const std::array slots{BlockId{0}, BlockId{1}, BlockId{7}, BlockId{8}, BlockId{9}};
    REQUIRE(kv_transfer::tier_pieces(blocks, slots) ==
            std::vector<TierPiece>{piece(4, 0, 2), piece(6, 7, 1), piece(9, 8, 2)});
}

TEST_CASE("what is saved in host memory or in a file comes back into other blocks", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    std::unique_ptr<kv_transfer::TierBytes> tier;
    SECTION("host") {
        tier = HostTier::make(pool.store, 8 * pool.layout.block_bytes() + 17).value();
    }
    SECTION("file") {
        tier = FileTier::open(options_of(folder, pool, 8, page_cache)).value();
    }
    REQUIRE(tier->slots_total() == 8);
    pool.fill({BlockId{0}, 4}, 10);
    const auto chain = chain_of(4);
    REQUIRE(tier->save(pool.access, std::array{piece(0, 3, 4)}, chain, std::nullopt));
    pool.fill({BlockId{0}, kBlocks}, 100);
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 4)}, chain) == 4u);
    REQUIRE(pool.holds({BlockId{8}, 4}, 10));
    REQUIRE(pool.holds({BlockId{0}, 4}, 100));
}

TEST_CASE("a budget below one block is refused with the setting and the size", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto host = HostTier::make(pool.store, pool.layout.block_bytes() - 1);
    REQUIRE(host.error().code == ErrorCode::invalid_argument);
    REQUIRE(host.error().message.find("engine.kv_host_bytes") != std::string::npos);
    auto options = options_of(folder, pool, 8, page_cache);
    options.bytes = 5000;
    const auto file = FileTier::open(options);
    REQUIRE(file.error().code == ErrorCode::invalid_argument);
    REQUIRE(file.error().message.find("engine.kv_disk.bytes") != std::string::npos);
}

TEST_CASE("a file's blocks are there in its next life, the longest unused first", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, page_cache);
    const auto chain = chain_of(4);
    {
        auto tier = FileTier::open(options).value();
        REQUIRE(tier->found().empty());
        pool.fill({BlockId{0}, 4}, 10);
        REQUIRE(tier->save(pool.access, std::array{piece(0, 0, 2)}, std::span(chain).first(2), std::nullopt));
        REQUIRE(tier->save(pool.access, std::array{piece(2, 5, 2)}, std::span(chain).last(2), chain[1]));
        REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 1)}, std::span(chain).first(1)) == 1u);
        const auto second = FileTier::open(options);
        REQUIRE(second.error().code == ErrorCode::failed_precondition);
    }
    auto more = options;
    SECTION("with the same budget") {}
    SECTION("with a larger one") {
        more.bytes *= 2;
    }
    auto tier = FileTier::open(more).value();
    const auto found = tier->found();
    REQUIRE(found.size() == 4);
    REQUIRE(found[0].hash == chain[1]);
    REQUIRE(found[0].slot == 1);
    REQUIRE(found[0].parent == chain[0]);
    REQUIRE(found[3].hash == chain[0]);
    REQUIRE_FALSE(found[3].parent.has_value());
    REQUIRE(tier->load(pool.access, std::array{piece(8, 5, 2)}, std::span(chain).last(2)) == 2u);
    REQUIRE(pool.holds({BlockId{8}, 2}, 12));
}

TEST_CASE("what a smaller budget has no place for is gone, the rest stays", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto chain = chain_of(4);
    REQUIRE(FileTier::open(options_of(folder, pool, 8, page_cache))
                .value()
                ->save(pool.access, std::array{piece(0, 2, 4)}, chain, {}));
    auto tier = FileTier::open(options_of(folder, pool, 4, page_cache)).value();
    REQUIRE(tier->slots_total() == 4);
    REQUIRE(tier->found().size() == 2);
    REQUIRE(fs::file_size(folder.path / "tier" / "blocks") == 4 * pool.layout.block_bytes());
}

TEST_CASE("files of another model, key, layout or version are begun anew", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, page_cache);
    REQUIRE(FileTier::open(options).value()->save(pool.access, std::array{piece(0, 0, 2)}, chain_of(2), std::nullopt));
    auto other = options;
    SECTION("model") {
        other.numerics_id = 8;
    }
    SECTION("key") {
        other.hash_key.bytes[3] = std::byte{1};
    }
    SECTION("layout") {
        other.layout = "bf16/lanes";
    }
    SECTION("version, or damage") {
        flip_byte(options.folder / "names", 9);
    }
    SECTION("no header at all") {
        fs::resize_file(options.folder / "names", 100);
    }
    REQUIRE(FileTier::open(other).value()->found().empty());
    REQUIRE(FileTier::open(other).value()->found().empty());
}

TEST_CASE("damaged blocks and records are never given out", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, page_cache);
    const auto chain = chain_of(4);
    pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(FileTier::open(options).value()->save(pool.access, std::array{piece(0, 0, 4)}, chain, std::nullopt));
    SECTION("a block: those before it come, it is named no more") {
        flip_byte(options.folder / "blocks", static_cast<std::streamoff>(2 * pool.layout.block_bytes() + 5));
        auto tier = FileTier::open(options).value();
        REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 4)}, chain) == 2u);
        REQUIRE(pool.holds({BlockId{8}, 2}, 10));
        tier.reset();
        REQUIRE(FileTier::open(options).value()->found().size() == 3);
    }
    SECTION("a record") {
        flip_byte(options.folder / "names", 4096 + 64 + 3);
        REQUIRE(FileTier::open(options).value()->found().size() == 3);
    }
    SECTION("a file that ends too early") {
        auto tier = FileTier::open(options).value();
        fs::resize_file(options.folder / "blocks", 2 * pool.layout.block_bytes());
        const auto loaded = tier->load(pool.access, std::array{piece(8, 0, 4)}, chain);
        REQUIRE((!loaded || *loaded <= 2));
    }
    SECTION("another block than the one that is asked for") {
        auto tier = FileTier::open(options).value();
        REQUIRE(tier->load(pool.access, std::array{piece(8, 1, 2)}, std::span(chain).first(2)) == 0u);
    }
    SECTION("cleared") {
        auto tier = FileTier::open(options).value();
        REQUIRE(tier->clear());
        REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 4)}, chain) == 0u);
        tier.reset();
        REQUIRE(FileTier::open(options).value()->found().empty());
    }
}

TEST_CASE("a disk that takes no more is an error, and the slots hold nothing", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, page_cache);
    const auto chain = chain_of(4);
    auto tier = FileTier::open(options).value();
    REQUIRE(tier->save(pool.access, std::array{piece(0, 0, 4)}, chain, std::nullopt));
    struct ::rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, SIG_IGN);
    const struct ::rlimit small{5 * pool.layout.block_bytes(), before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    const auto saved = tier->save(pool.access, std::array{piece(4, 3, 4)}, chain_of(4, 2), std::nullopt);
    const auto loaded = tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4, 2));
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    REQUIRE(saved.error().code == ErrorCode::resource_exhausted);
    REQUIRE(loaded == 0u);
    REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 3)}, std::span(chain).first(3)) == 3u);
}

TEST_CASE("a folder that cannot be made is an error that names it", "[kv_transfer]") {
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    Pool pool;
    const Folder folder;
    std::ofstream(folder.path / "tier") << "a file";
    const auto opened = FileTier::open(options_of(folder, pool, 8, page_cache));
    REQUIRE_FALSE(opened);
    REQUIRE(opened.error().message.find((folder.path / "tier").string()) != std::string::npos);
}

TEST_CASE("a process that is killed while it writes leaves nothing torn", "[kv_transfer][property]") {
    const bool page_cache = GENERATE(false, true);
    const auto coding = GENERATE(kv_transfer::TierCoding::raw, kv_transfer::TierCoding::exact);
    CAPTURE(page_cache, static_cast<int>(coding));
    // Each life writes blocks whose bytes follow from their name, for ever, until it is killed.
    const auto content = [](const BlockHash& hash) { return static_cast<std::uint8_t>(hash.low * 7 + hash.high); };
    for (std::uint64_t seed = 0; seed < test_support::seeds_of(25); ++seed) {
        const bool in_turn = seed % 2 == 0;
        const Folder folder;
        Pool pool;
        auto options = options_of(folder, pool, 8, page_cache);
        options.coding = coding;
        options.pool = pool.layout;
        for (int life = 0; life < 4; ++life) {
            int ready[2];
            REQUIRE(::pipe(ready) == 0);
            const pid_t child = ::fork();
            REQUIRE(child >= 0);
            if (child == 0) {
                auto tier = FileTier::open(options).value();
                std::mt19937_64 random(seed * 10 + static_cast<std::uint64_t>(life));
                std::array<BlockHash, kBlocks> hashes;
                std::array<TierPiece, kBlocks> pieces;
                std::uint64_t round = 0;
                const auto next = [&]() -> std::optional<kv_transfer::TierSave> {
                    // As many as the level has slots may be on their way, and no more than half of the pool's blocks.
                    const auto block = static_cast<std::uint32_t>(round % kBlocks);
                    hashes[block] = {random() % 1000, random() % 1000};
                    pieces[block] = piece(block, static_cast<std::uint32_t>(round % 8), 1);
                    std::memset(pool.store.block(BlockId{block}), content(hashes[block]), pool.layout.block_bytes());
                    if (++round == 20 && ::write(ready[1], "x", 1) != 1) { ::_exit(2); }
                    return kv_transfer::TierSave{std::span(pieces).subspan(block, 1),
                                                 std::span(hashes).subspan(block, 1)};
                };
                const auto ended = [](const base::Result<void>& saved) {
                    if (!saved) { ::_exit(1); }
                };
                if (in_turn) { tier->save_in_turn(pool.access, next, ended); }
                while (true) {
                    const auto one = next();
                    ended(tier->save(pool.access, one->pieces, one->hashes, one->parent));
                }
            }
            char byte = 0;
            ::close(ready[1]);
            REQUIRE(::read(ready[0], &byte, 1) == 1);
            ::close(ready[0]);
            ::usleep(static_cast<useconds_t>(seed * 370 % 1000));  // not a wait for anything: any moment will do
            REQUIRE(::kill(child, SIGKILL) == 0);
            int status = 0;
            REQUIRE(::waitpid(child, &status, 0) == child);
            REQUIRE(WIFSIGNALED(status));
            auto tier = FileTier::open(options).value();
            const auto found = tier->found();
            REQUIRE((in_turn || found.size() >= 7));  // one may be on its way; in turn any of them
            for (const auto& block : found) {
                INFO("seed " << seed << ", life " << life << ", slot " << block.slot);
                const auto loaded =
                    tier->load(pool.access, std::array{piece(1, block.slot, 1)}, std::array{block.hash});
                REQUIRE(loaded);
                if (*loaded == 1) { REQUIRE(pool.holds({BlockId{1}, 1}, content(block.hash))); }
                REQUIRE(*loaded == 1);
            }
        }
    }
}

TEST_CASE("saves that wait are given to the level together, until a load comes or a clear is first", "[kv_transfer]") {
    /// Holds the first save until it is let go on, so that others wait behind it.
    class HeldTier final : public kv_transfer::TierBytes {
    public:
        std::uint32_t slots_total() const override { return 64; }
        base::Result<void> save(kv_cache::KvAccess&, std::span<const TierPiece>, std::span<const BlockHash> hashes,
                                std::optional<BlockHash>) override {
            done.push_back(hashes.front().low);
            begun.open();
            go_on.pass();
            if (hashes.front().low == 2) { return base::fail(ErrorCode::unavailable, "this one not"); }
            return {};
        }
        void save_in_turn(kv_cache::KvAccess& access, const std::function<std::optional<kv_transfer::TierSave>()>& next,
                          const std::function<void(base::Result<void>)>& ended) override {
            ++turns;
            TierBytes::save_in_turn(access, next, ended);
        }
        base::Result<std::uint32_t> load(kv_cache::KvAccess&, std::span<const TierPiece>,
                                         std::span<const BlockHash> hashes) override {
            done.push_back(hashes.front().low);
            return static_cast<std::uint32_t>(hashes.size());
        }
        base::Result<void> clear() override {
            done.push_back(0);
            return {};
        }
        Gate begun;
        Gate go_on;
        std::vector<std::uint64_t> done;  // of the copier's thread, until it has ended
        int turns = 0;                    // the same
    };
    Pool pool;
    base::SystemClock clock;
    std::mutex mutex;
    std::vector<TierEvent> events;
    auto held = std::make_unique<HeldTier>();
    HeldTier& tier = *held;
    Gate ended;
    auto copier = TierCopier::start(pool.store, std::move(held), 4, clock, [&](TierEvent event) {
                      {
                          const std::scoped_lock lock(mutex);
                          events.push_back(std::move(event));
                      }
                      ended.open();
                  }).value();
    const auto job = [](std::uint64_t id, TierJob::Kind kind) {
        TierJob one;
        one.id = id;
        one.kind = kind;
        if (kind != TierJob::Kind::clear) {
            one.pieces = {piece(0, 0, 1)};
            one.hashes = {{7, id}};
        }
        return one;
    };
    REQUIRE(copier->submit(job(1, TierJob::Kind::save)));
    tier.begun.pass();
    for (const std::uint64_t id : {2u, 3u}) {
        REQUIRE(copier->submit(job(id, TierJob::Kind::save)));
    }
    REQUIRE(copier->submit(job(4, TierJob::Kind::clear)));
    REQUIRE(copier->submit(job(5, TierJob::Kind::save)));
    const bool has_load = GENERATE(false, true);
    if (has_load) { REQUIRE(copier->submit(job(6, TierJob::Kind::load))); }
    tier.go_on.open(10);
    for (int i = 0; i < (has_load ? 6 : 5); ++i) {
        ended.pass();
    }
    std::vector<std::uint64_t> ids;
    for (const TierEvent& event : events) {
        ids.push_back(event.id);
        CHECK(event.error.has_value() == (event.id == 2));
        CHECK(event.blocks_done == (event.id == 2 || event.id == 4 ? 0u : 1u));
    }
    const std::vector<std::uint64_t> done = tier.done;
    const int turns = tier.turns;
    copier.reset();
    if (has_load) {
        CHECK(ids == std::vector<std::uint64_t>{1, 6, 2, 3, 4, 5});
        CHECK(done == std::vector<std::uint64_t>{1, 6, 2, 3, 0, 5});
        CHECK(turns == 3);
    } else {
        CHECK(ids == std::vector<std::uint64_t>{1, 2, 3, 4, 5});
        CHECK(done == std::vector<std::uint64_t>{1, 2, 3, 0, 5});
        CHECK(turns == 2);
    }
}

TEST_CASE("the copier moves jobs on its thread, loads first, each with one event", "[kv_transfer]") {
    Pool pool;
    base::SystemClock clock;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<TierEvent> events;
    const auto wait_for = [&](std::size_t count) {
        std::unique_lock lock(mutex);
        return changed.wait_for(lock, std::chrono::seconds(60), [&] { return events.size() >= count; });
    };
    auto copier =
        TierCopier::start(pool.store, HostTier::make(pool.store, 8 * pool.layout.block_bytes()).value(), 4, clock,
                          [&](TierEvent event) {
                              const std::scoped_lock lock(mutex);
                              events.push_back(std::move(event));
                              changed.notify_all();
                          })
            .value();
    pool.fill({BlockId{0}, 3}, 10);
    const auto chain = chain_of(3);
    TierJob save;
    save.id = 1;
    save.pieces = {piece(0, 4, 2), piece(2, 0, 1)};
    save.hashes = chain;
    REQUIRE(copier->submit(save));
    REQUIRE(wait_for(1));
    pool.fill({BlockId{0}, kBlocks}, 100);
    TierJob load;
    load.id = 2;
    load.kind = TierJob::Kind::load;
    load.pieces = {piece(5, 4, 2), piece(9, 0, 1)};
    load.hashes = chain;
    REQUIRE(copier->submit(load));
    REQUIRE(wait_for(2));
    REQUIRE(copier->blocks_loading() == 0);
    REQUIRE(pool.holds({BlockId{5}, 2}, 10));
    REQUIRE(pool.holds({BlockId{9}, 1}, 12));
    REQUIRE(events[0].id == 1);
    REQUIRE(events[1].blocks_done == 3);
    copier.reset();
    REQUIRE(events.size() == 2);
}
