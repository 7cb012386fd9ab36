// All levels below a pool at once, with their real threads, files and requests: host memory, a disk whose blocks are
// damaged now and then, a store that fails in every way. Ten thousand random operations over several lives of a worker
// (ten seeds): every answer is what it is without levels, and no block and no slot is lost.
#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <stdlib.h>

#include "base/log.h"
#include "kv_transfer/tier/file_tier.h"
#include "kv_transfer/tier/host_tier.h"
#include "kv_transfer/tier/s3_tier.h"
#include "kv_transfer/tier/tier_copier.h"
#include "worker/kv_tiers_part.h"

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/s3_server.h"
#include "tests/support/seeds.h"
#include "tests/support/step_bench.h"

namespace fs = std::filesystem;
using base::TokenId;
using kv_transfer::S3Credentials;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
using test_support::S3Server;

namespace {

constexpr std::uint32_t kLives = 4;
constexpr std::uint32_t kLivesMax = 60;  // until every level has been read from
constexpr std::uint64_t kTurns = 250;    // of a life; ten seeds make ten thousand operations
constexpr std::uint32_t kJobsMax = 8;
constexpr std::array kLevels{"host", "disk", "s3"};
const S3Credentials kCredentials{"AKEXAMPLE", "secret"};

struct Folder {
    Folder() {
        std::string name = (fs::temp_directory_path() / "sluice-levels-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    fs::path path;
};

worker::RequestKey key_of(std::uint64_t request) {
    return {base::RequestId{request}, base::Epoch{0}};
}

/// One life of a worker.
struct Life : test_support::StepBench {
    Life(Random& random, const worker::WorkerOptions& limits, const fs::path& folder, const std::string& endpoint)
        : StepBench({.blocks_total = 14 + random() % 12}, limits) {
        const std::size_t block_bytes = engine.layout().block_bytes();
        add("host", kv_transfer::HostTier::make(engine.kv_store(), (6 + random() % 20) * block_bytes).value(),
            random() % 4);
        kv_transfer::FileTier::Options disk;
        disk.folder = folder / "disk";
        disk.bytes = 4096 + 30 * (block_bytes + 64);
        disk.block_bytes = block_bytes;
        disk.numerics_id = 42;
        disk.layout = engine.layout().format().name();
        disk.page_cache = random() % 2 == 0;
        auto file = kv_transfer::FileTier::open(disk).value();
        const auto on_disk = file->found();
        add("disk", std::move(file), 0);
        for (const auto& found : on_disk) {
            slots.back()->adopt(base::BlockId{found.slot}, found.hash, found.parent);
        }
        kv_transfer::S3Tier::Options store;
        store.store.endpoint = endpoint;
        store.store.bucket = "kv";
        store.store.credentials = [] { return base::Result<S3Credentials>(kCredentials); };
        store.store.connections = 2;
        store.store.retries = 1;
        store.store.retry_wait = std::chrono::milliseconds(1);
        store.store.timeout = std::chrono::minutes(1);
        store.bytes = 40 * (block_bytes + 80);
        store.buffer_bytes = 64 * (block_bytes + 80);
        store.numerics_id = 42;
        store.layout = disk.layout;
        store.worker = "mixed-0";
        auto objects = kv_transfer::S3Tier::open(engine.kv_store(), store, tier_clock, metrics).value();
        const auto in_store = objects->found();
        add("s3", std::move(objects), 0);
        for (const auto& [slot, block] : in_store) {
            slots.back()->adopt(base::BlockId{slot}, block.hash, block.parent);
        }
        tiers = std::make_unique<worker::KvTiersPart>(parts, limits, loop, "mixed-0", metrics);
        loop.add_helper(tiers.get());
    }

    void add(std::string name, std::unique_ptr<kv_transfer::TierBytes> bytes, std::uint32_t save_blocks) {
        slots.push_back(std::make_unique<kv_cache::KvCache>(
            kv_cache::KvCache::Options{.blocks_total = bytes->slots_total(), .block_tokens = 16}));
        copiers.push_back(kv_transfer::TierCopier::start(engine.kv_store(), std::move(bytes), kJobsMax, tier_clock,
                                                         [this, tier = copiers.size()](kv_transfer::TierEvent event) {
                                                             tiers->on_event(tier, std::move(event));
                                                         })
                              .value());
        parts.push_back(
            {std::move(name), slots.back().get(), copiers.back().get(), save_blocks, engine.layout().block_bytes()});
    }

    /// Until nothing is left to do, here and in the levels.
    void finish() {
        const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(5);
        while (true) {
            const bool is_busy = tiers->busy();
            if (driver.overlapped_turn()) { continue; }
            if (!is_busy) { return; }
            REQUIRE(std::chrono::steady_clock::now() < until);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    void check_nothing_lost() {
        std::vector<const kv_cache::KvCache*> all{&cache};
        for (const auto& each : slots) {
            all.push_back(each.get());
        }
        for (const kv_cache::KvCache* each : all) {
            const auto counts = each->counts();
            REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
            REQUIRE(counts.free + counts.cached == each->options().blocks_total);
        }
        REQUIRE(tiers->blocks_returning() == 0);
        REQUIRE(engine.violations() == 0);
    }

    double loaded(const std::string& tier) const {
        const std::string line = "sluice_kv_tier_bytes_total{direction=\"in\",tier=\"" + tier + "\"} ";
        const std::string text = metrics.text();
        return std::stod(text.substr(text.find(line) + line.size()));
    }

    base::FakeClock tier_clock;
    std::vector<std::unique_ptr<kv_cache::KvCache>> slots;
    std::vector<worker::KvTiers::Tier> parts;
    std::unique_ptr<worker::KvTiersPart> tiers;
    std::vector<std::unique_ptr<kv_transfer::TierCopier>> copiers;  // last: their threads use the rest
};

/// A bit of a block on the disk is another one from now on.
void damage(const fs::path& file, Random& random) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(0, std::ios::end);
    const auto at = static_cast<std::streamoff>(random() % static_cast<std::uint64_t>(stream.tellg()));
    stream.seekg(at);
    const char byte = static_cast<char>(stream.get());
    stream.seekp(at);
    stream.put(static_cast<char>(byte ^ 1));
}

struct Asked {
    std::vector<TokenId> prompt;
    std::uint32_t new_tokens = 0;
    bool is_cancelled = false;
};

}  // namespace

TEST_CASE("whatever all levels do, over several lives, answers are the same and nothing is lost",
          "[worker][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(10)));
    INFO("seed " << seed);
    base::init_log({.role = "test", .level = "off"});
    Random random{seed};
    std::mt19937 faulty{seed + 1};  // of the server's threads, one at a time
    S3Server server("kv", kCredentials);
    const std::uint32_t odds = seed % 3 == 0 ? 3 : 15;
    server.set_faults([&](const S3Server::Call&) {
        // All but silence, which takes as long as a client waits.
        return faulty() % odds == 0 ? static_cast<S3Server::Fault>(1 + faulty() % 10) : S3Server::Fault::none;
    });
    const Folder folder;
    std::vector<std::vector<TokenId>> ended;  // conversations to go on with, also of earlier lives
    std::uint64_t next_request = 1;
    std::map<std::string, double> loaded;
    // What is read in so many turns is up to the levels' threads: where some level was not, there are more lives.
    const auto is_over = [&](std::uint32_t lives) {
        return lives == kLivesMax ||
               (lives >= kLives &&
                std::all_of(kLevels.begin(), kLevels.end(), [&](const char* tier) { return loaded[tier] > 0; }));
    };
    for (std::uint32_t number = 0; !is_over(number); ++number) {
        INFO("life " << number);
        worker::WorkerOptions limits;
        limits.batch_tokens_max = 16 + random() % 100;
        limits.kv_ahead_percent = random() % 2 == 0 ? 0 : 1 + random() % 100;
        Life life(random, limits, folder.path, server.endpoint());
        std::map<std::uint64_t, Asked> asked;
        for (std::uint64_t turn = 0; turn < kTurns; ++turn) {
            if (number >= kLives && turn % 8 == 0) { life.finish(); }  // their threads have time, too
            life.tier_clock.advance(std::chrono::milliseconds(random() % 1000));
            const std::uint32_t what = random() % 100;
            if (what < 20) {
                Asked request;
                if (!ended.empty() && random() % 3 != 0) { request.prompt = ended[random() % ended.size()]; }
                const auto more = random_prompt(random, 1 + random() % 60);
                request.prompt.insert(request.prompt.end(), more.begin(), more.end());
                request.prompt.resize(std::min<std::size_t>(request.prompt.size(), 150));
                request.new_tokens = 1 + random() % 30;
                REQUIRE(life.loop.post_command(make_start(next_request, request.prompt, request.new_tokens)));
                asked.emplace(next_request++, std::move(request));
            } else if (what < 22 && !asked.empty()) {
                auto at = std::next(asked.begin(), static_cast<std::ptrdiff_t>(random() % asked.size()));
                at->second.is_cancelled = true;
                REQUIRE(life.loop.post_command(worker::CancelRequest{key_of(at->first), test_support::kGateway, "no"}));
            } else if (what == 22 && random() % 3 == 0) {
                REQUIRE(life.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
            } else if (what < 26) {
                damage(folder.path / "disk" / "blocks", random);
            }
            life.driver.overlapped_turn();
            for (const auto& [request, of] : asked) {
                const auto& answer = life.sink.answers[key_of(request)];
                if (answer.finals == 1 && random() % 20 == 0) {
                    ended.push_back(of.prompt);
                    ended.back().insert(ended.back().end(), answer.tokens.begin(), answer.tokens.end());
                }
            }
            if (ended.size() > 8) { ended.erase(ended.begin()); }
        }
        life.finish();
        for (const auto& [request, of] : asked) {
            const auto& answer = life.sink.answers.at(key_of(request));
            INFO("request " << request);
            REQUIRE(answer.finals == 1);
            if (of.is_cancelled) { continue; }
            REQUIRE(answer.finish == worker::Finish::length);
            REQUIRE(answer.tokens == test_support::ledger_continuation(of.prompt, of.new_tokens, 1000));
        }
        life.check_nothing_lost();
        for (const char* tier : kLevels) {
            loaded[tier] += life.loaded(tier);
        }
    }
    REQUIRE(server.wrong_signatures() == 0);
    // Else all of this would prove nothing.
    for (const char* tier : kLevels) {
        INFO("level " << tier);
        REQUIRE(loaded[tier] > 0);
    }
}
