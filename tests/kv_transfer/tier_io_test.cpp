// The two ways in which the files of a tier move: around the page cache, several pieces at once, and through it.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "kv_transfer/tier/file_io.h"
#include "kv_transfer/tier/file_tier.h"

#include "tests/kv_transfer/tier_world.h"
#include "tests/support/catch.h"
#include "tests/support/distant_device.h"
#include "tests/support/seeds.h"

namespace fs = std::filesystem;
using base::BlockHash;
using base::ErrorCode;
using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_transfer::FileTier;
using kv_transfer::TierPiece;
using test_support::chain_of;
using test_support::Folder;
using test_support::kBlocks;
using test_support::options_of;
using test_support::piece;
using test_support::Pool;

namespace {

/// Says so and is false where kernel, container or file system have no direct I/O that leaves the page cache alone.
bool has_direct(const FileTier& tier, const fs::path& folder) {
    struct ::statfs system{};
    REQUIRE(::statfs(folder.c_str(), &system) == 0);
    const bool is_known = system.f_type == EXT4_SUPER_MAGIC || system.f_type == XFS_SUPER_MAGIC;
    if (tier.way() == "direct" && is_known) { return true; }
    std::printf("SKIPPED: no direct I/O here: %s\n",
                is_known ? tier.why_not_direct().c_str() : "neither ext4 nor XFS, of others it is not known");
    return false;
}

std::size_t pages_in_cache(const fs::path& file) {
    const int opened = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    REQUIRE(opened >= 0);
    const std::size_t bytes = fs::file_size(file);
    void* mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, opened, 0);
    REQUIRE(mapped != MAP_FAILED);
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> resident((bytes + page - 1) / page);
    REQUIRE(::mincore(mapped, bytes, resident.data()) == 0);
    ::munmap(mapped, bytes);
    ::close(opened);
    return static_cast<std::size_t>(
        std::count_if(resident.begin(), resident.end(), [](unsigned char one) { return (one & 1) != 0; }));
}

/// As a container's profile does: io_uring is not permitted from here on, in this process. False: it cannot be had.
bool forbid_io_uring() {
    std::array<sock_filter, 4> filter{
        sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
        sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
        sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
    };
    const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/// The numbers below `total` in runs of 1 to 3, the runs in any order.
std::vector<BlockRun> scattered(std::uint32_t total, std::mt19937& random) {
    std::vector<BlockRun> runs;
    for (std::uint32_t at = 0; at < total;) {
        const std::uint32_t count = std::min(1 + static_cast<std::uint32_t>(random() % 3), total - at);
        runs.push_back({BlockId{at}, count});
        at += count;
    }
    std::shuffle(runs.begin(), runs.end(), random);
    return runs;
}

std::vector<BlockId> ids_of(const std::vector<BlockRun>& runs) {
    std::vector<BlockId> ids;
    for (const BlockRun& run : runs) {
        for (std::uint32_t i = 0; i < run.count; ++i) {
            ids.push_back(BlockId{base::raw(run.first) + i});
        }
    }
    return ids;
}

/// A pool in host memory, or on a device from where every piece goes through staging.
struct DrawnPool {
    explicit DrawnPool(std::mt19937& random)
        : in_host_memory(random() % 2 == 0),
          pool(*device(), kv_cache::KvLayout::make(test_support::small_shape(),
                                                   {kv_cache::KvDtype::f32, kv_cache::TileOrder::token_major}, 16)
                              .value()) {}
    device::Device* device() { return in_host_memory ? &device::host_device() : &distant; }

    test_device::DistantDevice distant;
    bool in_host_memory;
    Pool pool;
};

}  // namespace

TEST_CASE("around the page cache nothing is left in it", "[kv_transfer]") {
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, false);
    auto tier = FileTier::open(options).value();
    if (!has_direct(*tier, folder.path)) { return; }
    REQUIRE(tier->why_not_direct().empty());
    pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(pool.access, std::array{piece(0, 3, 4)}, chain_of(4), std::nullopt));
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4)) == 4u);
    REQUIRE(pool.holds({BlockId{8}, 4}, 10));
    REQUIRE(pages_in_cache(options.folder / "blocks") == 0);
}

TEST_CASE("files that went one way are read the other", "[kv_transfer]") {
    Pool pool;
    const Folder folder;
    const bool page_cache = GENERATE(false, true);
    CAPTURE(page_cache);
    pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(FileTier::open(options_of(folder, pool, 8, page_cache))
                .value()
                ->save(pool.access, std::array{piece(0, 3, 4)}, chain_of(4), std::nullopt));
    auto tier = FileTier::open(options_of(folder, pool, 8, !page_cache)).value();
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4)) == 4u);
    REQUIRE(pool.holds({BlockId{8}, 4}, 10));
}

TEST_CASE("pieces in any place come back, up to the first that is damaged", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random(seed);
    DrawnPool drawn(random);
    Pool& pool = drawn.pool;
    const Folder folder;
    auto options = options_of(folder, pool, kBlocks, random() % 2 == 0);
    options.depth = 1 + static_cast<std::uint32_t>(random() % 5);
    options.device = drawn.device();
    auto tier = FileTier::open(options).value();

    const std::vector<BlockId> slots = ids_of(scattered(kBlocks, random));
    const std::vector<BlockId> sources = ids_of(scattered(kBlocks, random));
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
        pool.fill({sources[i], 1}, static_cast<std::uint8_t>(10 + i));
    }
    const auto chain = chain_of(kBlocks);
    REQUIRE(tier->save(pool.access, kv_transfer::tier_pieces(sources, slots), chain, std::nullopt));

    const auto damaged = static_cast<std::uint32_t>(random() % (kBlocks + 1));  // kBlocks: none
    if (damaged < kBlocks) {
        const auto at = std::uint64_t{base::raw(slots[damaged])} * pool.layout.block_bytes() + random() % 1000;
        const int file = ::open((options.folder / "blocks").c_str(), O_RDWR | O_CLOEXEC);
        std::byte byte{};
        REQUIRE(kv_transfer::read_all(file, std::span(&byte, 1), at) == 0);
        byte ^= std::byte{1};
        REQUIRE(kv_transfer::write_all(file, std::span(&byte, 1), at) == 0);
        ::close(file);
    }
    pool.fill({BlockId{0}, kBlocks}, 100);
    const std::vector<BlockId> targets = ids_of(scattered(kBlocks, random));
    REQUIRE(tier->load(pool.access, kv_transfer::tier_pieces(targets, slots), chain) == damaged);
    for (std::uint32_t i = 0; i < damaged; ++i) {
        REQUIRE(pool.holds({targets[i], 1}, static_cast<std::uint8_t>(10 + i)));
    }
    REQUIRE(tier->found().size() == kBlocks - (damaged < kBlocks ? 1 : 0));
}

TEST_CASE("of several saves in turn each ends by itself, in order, and those that failed hold nothing",
          "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random(seed);
    DrawnPool drawn(random);
    Pool& pool = drawn.pool;
    const Folder folder;
    auto options = options_of(folder, pool, kBlocks, random() % 4 == 0);
    options.depth = 1 + static_cast<std::uint32_t>(random() % 5);
    options.device = drawn.device();
    options.coding = std::array{kv_transfer::TierCoding::raw, kv_transfer::TierCoding::automatic}[random() % 2];
    options.pool = pool.layout;
    if (random() % 2 == 0) { options.read_rate = random() % 2 == 0 ? 1e6 : 1e11; }  // coded, or not
    auto tier = FileTier::open(options).value();

    const std::vector<BlockId> slots = ids_of(scattered(kBlocks, random));
    const std::vector<BlockId> sources = ids_of(scattered(kBlocks, random));
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
        pool.fill({sources[i], 1}, static_cast<std::uint8_t>(10 + i));
    }
    struct Job {
        std::uint32_t first = 0;
        std::vector<TierPiece> pieces;
        std::vector<BlockHash> chain;
        bool is_too_far = false;  // a block of it has no room in the file
    };
    // Where the file may not reach, nothing can be written.
    const std::uint32_t room = random() % 2 == 0 ? kBlocks : 1 + static_cast<std::uint32_t>(random() % (kBlocks - 1));
    std::vector<Job> jobs;
    for (std::uint32_t at = 0; at < kBlocks;) {
        const auto count = std::min(1 + static_cast<std::uint32_t>(random() % 5), kBlocks - at);
        Job job{.first = at, .pieces = {}, .chain = chain_of(count, 1 + jobs.size())};
        job.pieces =
            kv_transfer::tier_pieces(std::span(sources).subspan(at, count), std::span(slots).subspan(at, count));
        for (std::uint32_t i = at; i < at + count; ++i) {
            job.is_too_far = job.is_too_far || base::raw(slots[i]) >= room;
        }
        jobs.push_back(std::move(job));
        at += count;
    }
    struct ::rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    ::signal(SIGXFSZ, SIG_IGN);
    const struct ::rlimit small{room * pool.layout.block_bytes(), before.rlim_max};
    if (room < kBlocks) { REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0); }
    std::size_t given = 0;
    bool has_more = true;  // now and then there is nothing to begin at the moment
    std::vector<base::Result<void>> ended;
    while (given < jobs.size()) {
        tier->save_in_turn(
            pool.access,
            [&]() -> std::optional<kv_transfer::TierSave> {
                has_more = given < jobs.size() && (!has_more || random() % 8 != 0);
                if (!has_more) { return std::nullopt; }
                const Job& job = jobs[given++];
                return kv_transfer::TierSave{job.pieces, job.chain};
            },
            [&](base::Result<void> saved) { ended.push_back(std::move(saved)); });
        REQUIRE(ended.size() == given);
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::size_t blocks = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        CAPTURE(i, room);
        REQUIRE(ended[i].has_value() == !jobs[i].is_too_far);
        blocks += jobs[i].is_too_far ? 0 : jobs[i].chain.size();
    }
    for (int life = 0; life < 2; ++life) {
        REQUIRE(tier->found().size() == blocks);
        for (const Job& job : jobs) {
            pool.fill({BlockId{0}, kBlocks}, 100);
            const auto count = static_cast<std::uint32_t>(job.chain.size());
            const auto loaded = tier->load(pool.access, job.pieces, job.chain);
            REQUIRE(loaded == (job.is_too_far ? 0u : count));
            for (std::uint32_t i = 0; i < *loaded; ++i) {
                REQUIRE(pool.holds({sources[job.first + i], 1}, static_cast<std::uint8_t>(10 + job.first + i)));
            }
        }
        tier.reset();
        tier = FileTier::open(options).value();
    }
}

TEST_CASE("where io_uring is forbidden blocks go through the page cache, and the reason is told", "[kv_transfer]") {
    Pool pool;
    const Folder folder;
    const auto options = options_of(folder, pool, 8, false);
    pool.fill({BlockId{0}, 4}, 10);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        if (!forbid_io_uring()) { ::_exit(77); }
        if (kv_transfer::io_uring_problem().find("forbidden") == std::string::npos) { ::_exit(2); }
        auto tier = FileTier::open(options).value();
        if (tier->way() != "page_cache") { ::_exit(3); }
        if (tier->why_not_direct().find("seccomp") == std::string::npos) { ::_exit(4); }
        if (!tier->save(pool.access, std::array{piece(0, 3, 4)}, chain_of(4), std::nullopt)) { ::_exit(5); }
        if (tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4)) != 4u) { ::_exit(6); }
        ::_exit(pool.holds({BlockId{8}, 4}, 10) ? 0 : 7);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        std::printf("SKIPPED: this process may not set up a seccomp filter\n");
        return;
    }
    REQUIRE(WEXITSTATUS(status) == 0);
    auto tier = FileTier::open(options).value();  // here it is not
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4)) == 4u);
}

TEST_CASE("blocks that direct I/O cannot move go through the page cache, and the reason is told", "[kv_transfer]") {
    Pool pool;
    const Folder folder;
    auto options = options_of(folder, pool, 8, false);
    options.block_bytes = 1000;
    auto tier = FileTier::open(options).value();
    REQUIRE(tier->way() == "page_cache");
    REQUIRE_FALSE(tier->why_not_direct().empty());
    options.page_cache = true;
    options.folder = folder.path / "other";
    REQUIRE(FileTier::open(options).value()->why_not_direct().empty());  // nobody asked
}

TEST_CASE("files in memory are no reason for direct I/O", "[kv_transfer]") {
    struct ::statfs system{};
    if (::statfs("/dev/shm", &system) != 0 || system.f_type != TMPFS_MAGIC) {
        std::printf("SKIPPED: no tmpfs in /dev/shm\n");
        return;
    }
    Pool pool;
    const Folder folder("/dev/shm");
    auto tier = FileTier::open(options_of(folder, pool, 8, false)).value();
    REQUIRE(tier->way() == "page_cache");
    REQUIRE_FALSE(tier->why_not_direct().empty());
    pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(pool.access, std::array{piece(0, 3, 4)}, chain_of(4), std::nullopt));
    REQUIRE(tier->load(pool.access, std::array{piece(8, 3, 4)}, chain_of(4)) == 4u);
}

TEST_CASE("a tier begins when what a killed process has on its way has ended", "[kv_transfer]") {
    Pool pool;
    const Folder folder;
    auto options = options_of(folder, pool, 8, GENERATE(false, true));
    pool.fill({BlockId{0}, 2}, 10);
    REQUIRE(FileTier::open(options).value()->save(pool.access, std::array{piece(0, 0, 2)}, chain_of(2), std::nullopt));
    const int on_its_way = ::open((options.folder / "blocks").c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(::flock(on_its_way, LOCK_EX | LOCK_NB) == 0);  // as the kernel's copy of the descriptor does

    options.earlier_wait = base::Duration{};
    const auto refused = FileTier::open(options);
    REQUIRE(refused.error().code == ErrorCode::failed_precondition);
    REQUIRE(refused.error().message.find("blocks") != std::string::npos);

    options.earlier_wait = std::chrono::minutes(1);
    std::atomic<bool> has_ended = false;
    std::jthread later([&] {
        has_ended = true;
        ::close(on_its_way);
    });
    auto tier = FileTier::open(options).value();
    REQUIRE(has_ended);
    REQUIRE(tier->load(pool.access, std::array{piece(8, 0, 2)}, chain_of(2)) == 2u);
    REQUIRE(pool.holds({BlockId{8}, 2}, 10));
    const int other = ::open((options.folder / "blocks").c_str(), O_RDWR | O_CLOEXEC);
    REQUIRE(::flock(other, LOCK_EX | LOCK_NB) != 0);  // it has the lock itself, whichever way
    ::close(other);
}
