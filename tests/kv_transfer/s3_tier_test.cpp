// The level in a store: what is saved comes back, also in another life, and whatever the store does, nothing else does.
#include "kv_transfer/tier/s3_tier.h"

#include <array>
#include <string>
#include <utility>

#include "tests/kv_transfer/s3_world.h"

using base::ErrorCode;
using kv_cache::BlockId;
using test_support::chain_of;
using test_support::Gate;
using test_support::kBlocks;
using test_support::piece;
using test_support::S3Server;
using test_support::S3World;
using Fault = S3Server::Fault;

namespace {

/// Fails every request of a method so.
std::function<Fault(const S3Server::Call&)> every(std::string method, Fault fault) {
    return [method = std::move(method), fault](const S3Server::Call& call) {
        return call.method == method && !call.key.empty() ? fault : Fault::none;
    };
}

}  // namespace

TEST_CASE("what is saved in a store comes back into other blocks, also in another life", "[kv_transfer]") {
    S3World world;
    const auto chain = chain_of(4);
    auto tier = world.open(8);
    REQUIRE(tier->slots_total() == 8);
    REQUIRE(tier->found().empty());
    REQUIRE_FALSE(tier->why_not_all());
    world.pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 3, 2), piece(2, 0, 2)}, chain, std::nullopt));
    SECTION("at once, from wherever it is") {}
    SECTION("from the store") {
        world.wait_sent();
    }
    SECTION("in another life") {
        tier.reset();  // which sends what it has
        REQUIRE(world.server.objects().size() == 4);
        tier = world.open(8);
        REQUIRE(tier->found().size() == 4);
        for (const auto& [slot, block] : tier->found()) {
            const std::uint64_t number = block.hash.low;
            REQUIRE(block.hash == chain[number - 1]);
            REQUIRE(block.parent == (number == 1 ? std::nullopt : std::optional(chain[number - 2])));
        }
    }
    world.pool.fill({BlockId{0}, kBlocks}, 100);
    if (tier->found().empty()) {
        REQUIRE(tier->load(world.pool.access, std::array{piece(8, 3, 2), piece(10, 0, 2)}, chain) == 4u);
        REQUIRE(world.pool.holds({BlockId{8}, 4}, 10));
    } else {
        for (const auto& [slot, block] : tier->found()) {
            REQUIRE(tier->load(world.pool.access, std::array{piece(8, slot, 1)}, std::array{block.hash}) == 1u);
            REQUIRE(world.pool.holds({BlockId{8}, 1}, static_cast<std::uint8_t>(9 + block.hash.low)));
        }
    }
    REQUIRE(world.pool.holds({BlockId{0}, 4}, 100));
    REQUIRE(world.server.wrong_signatures() == 0);
}

TEST_CASE("two levels of one model and key have what each has put; others have nothing of it", "[kv_transfer]") {
    S3World world;
    const auto chain = chain_of(2);
    REQUIRE(world.open(8)->save(world.pool.access, std::array{piece(0, 0, 2)}, chain, std::nullopt));
    REQUIRE(world.open(8)->found().size() == 2);
    REQUIRE(world.open(1)->found().size() == 1);
    auto options = world.options(8);
    SECTION("another model") {
        options.numerics_id = 8;
    }
    SECTION("another key") {
        options.hash_key.bytes[3] = std::byte{1};
    }
    SECTION("another layout") {
        options.layout = "bf16/lanes";
    }
    SECTION("another prefix") {
        options.prefix = "else/";
    }
    REQUIRE(world.open(options)->found().empty());
}

TEST_CASE("what a store does to objects is a miss, and the blocks before it come", "[kv_transfer]") {
    S3World world;
    const auto chain = chain_of(4);
    auto tier = world.open(8);
    world.pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 4)}, chain, std::nullopt));
    world.wait_sent();
    auto objects = world.server.objects();
    auto third = std::next(objects.begin(), 2);  // by name, which is the chain's order
    std::string outcome = "damaged";
    SECTION("a bit is another one") {
        third->second[third->second.size() / 2] ^= 4;
    }
    SECTION("it is cut") {
        third->second.resize(100);
    }
    SECTION("it is empty") {
        third->second.clear();
    }
    SECTION("it is another object") {
        third->second = objects.begin()->second;
    }
    SECTION("another version wrote it") {
        third->second[8] = 9;
    }
    SECTION("it is gone") {
        objects.erase(third);
        outcome = "missing";
    }
    world.server.set_objects(objects);
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain) == 2u);
    REQUIRE(world.pool.holds({BlockId{8}, 2}, 10));
    REQUIRE(world.requests("get", outcome) == 1);
    // One object says nothing of the store: it is asked again at once, and what is put anew is good.
    REQUIRE(tier->save(world.pool.access, std::array{piece(2, 2, 2)}, std::span(chain).last(2), chain[1]));
    world.wait_sent();
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain) == 4u);
    REQUIRE(world.pool.holds({BlockId{8}, 4}, 10));
}

TEST_CASE("a store that fails is left alone for a while, by loads and by saves apart", "[kv_transfer]") {
    S3World world;
    const auto chain = chain_of(4);
    auto tier = world.open(8);
    world.pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 4)}, chain, std::nullopt));
    world.wait_sent();
    std::string outcome = "failed";
    Fault fault = Fault::error;
    SECTION("errors") {}
    SECTION("connections that end") {
        fault = Fault::close;
    }
    SECTION("refusals") {
        fault = Fault::refuse;
        outcome = "refused";
    }
    world.server.set_faults(every("GET", fault));
    const auto failed = tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain);
    REQUIRE_FALSE(failed);
    REQUIRE(world.requests("get", outcome) >= 1);
    world.server.set_faults({});
    const auto calls = world.server.calls();
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain).error().code == ErrorCode::unavailable);
    REQUIRE(world.server.calls() == calls);
    // Saves go on.
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 4, 1)}, chain_of(1, 2), std::nullopt));
    world.wait_sent();
    REQUIRE(world.server.objects().size() == 5);
    world.clock.advance(std::chrono::seconds(5));
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain) == 4u);
    REQUIRE(world.pool.holds({BlockId{8}, 4}, 10));

    world.server.set_faults(every("PUT", Fault::full));
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 5, 1)}, chain_of(1, 3), std::nullopt));
    world.wait_sent();
    REQUIRE(world.requests("put", "failed") == 1);
    REQUIRE_FALSE(tier->save(world.pool.access, std::array{piece(0, 6, 1)}, chain_of(1, 4), std::nullopt));
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 4)}, chain) == 4u);  // a full store can be read
    REQUIRE_FALSE(tier->load(world.pool.access, std::array{piece(8, 5, 1)}, chain_of(1, 3)));
    REQUIRE(world.requests("get", "missing") == 1);
    world.server.set_faults({});
    world.clock.advance(std::chrono::seconds(5));
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 6, 1)}, chain_of(1, 4), std::nullopt));
    world.wait_sent();
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 6, 1)}, chain_of(1, 4)) == 1u);
}

TEST_CASE("a load ends in time, with what has come", "[kv_transfer]") {
    S3World world;
    const auto chain = chain_of(6);
    auto options = world.options(8);
    options.store.connections = 1;
    options.load_timeout = std::chrono::seconds(3);
    auto tier = world.open(options);
    world.pool.fill({BlockId{0}, 6}, 10);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 6)}, chain, std::nullopt));
    world.wait_sent();
    world.server.set_faults([&](const S3Server::Call&) {
        world.clock.advance(std::chrono::seconds(1));  // each takes so long
        return Fault::none;
    });
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 6)}, chain) == 3u);
    REQUIRE(world.pool.holds({BlockId{8}, 3}, 10));
}

TEST_CASE("a buffer that is full takes nothing more, and names its setting", "[kv_transfer]") {
    S3World world;
    auto tier = world.open(200);
    const Gate gate;
    world.server.set_faults(gate.of("PUT"));
    base::Result<void> saved;
    std::uint32_t blocks = 0;
    for (; saved && blocks < 200; blocks += 10) {
        saved = tier->save(world.pool.access, std::array{piece(0, blocks, 10)}, chain_of(10, blocks + 1), std::nullopt);
    }
    REQUIRE(blocks == 80);
    REQUIRE(saved.error().code == ErrorCode::resource_exhausted);
    REQUIRE(saved.error().message.find("engine.kv_s3.buffer_bytes") != std::string::npos);
    REQUIRE(tier->load(world.pool.access, std::array{piece(4, 60, 10)}, chain_of(10, 61)) == 10u);  // of the buffer
    gate.open();
    world.wait_sent();
    REQUIRE(world.server.objects().size() == 70);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 70, 10)}, chain_of(10, 71), std::nullopt));
}

TEST_CASE("what a slot held is removed from the store, but for what has come back into another one", "[kv_transfer]") {
    S3World world;
    auto tier = world.open(8);
    const auto first = chain_of(2, 1);
    const auto second = chain_of(2, 2);
    world.pool.fill({BlockId{0}, 4}, 10);
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 2)}, first, std::nullopt));
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 4, 2)}, first, std::nullopt));  // elsewhere
    REQUIRE(tier->save(world.pool.access, std::array{piece(2, 0, 2)}, second, std::nullopt));
    world.wait_sent();
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 4, 2)}, first) == 2u);
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 2)}, second) == 2u);
    REQUIRE(tier->load(world.pool.access, std::array{piece(8, 0, 2)}, first).error().code == ErrorCode::not_found);
    REQUIRE(world.server.objects().size() == 4);
    REQUIRE(tier->save(world.pool.access, std::array{piece(2, 4, 2)}, chain_of(2, 3), std::nullopt));
    tier.reset();
    const auto objects = world.server.objects();
    REQUIRE(objects.size() == 4);
    REQUIRE(world.requests("delete", "complete") == 2);
    REQUIRE(world.open(8)->found().size() == 4);
}

TEST_CASE("a clear removes all of the model and key, whoever put it, and nothing else", "[kv_transfer]") {
    S3World world;
    auto tier = world.open(8);
    REQUIRE(world.open(8)->save(world.pool.access, std::array{piece(0, 0, 4)}, chain_of(4, 9), std::nullopt));
    auto other = world.options(8);
    other.numerics_id = 8;
    REQUIRE(world.open(other)->save(world.pool.access, std::array{piece(0, 0, 3)}, chain_of(3), std::nullopt));
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 2)}, chain_of(2), std::nullopt));
    REQUIRE(tier->clear());
    REQUIRE(world.server.objects().size() == 3);
    REQUIRE_FALSE(tier->load(world.pool.access, std::array{piece(8, 0, 2)}, chain_of(2)));
    REQUIRE(tier->save(world.pool.access, std::array{piece(0, 0, 2)}, chain_of(2), std::nullopt));
    world.wait_sent();
    world.server.set_faults(every("DELETE", Fault::refuse));
    REQUIRE(tier->clear().error().message.find("may still lie") != std::string::npos);
    REQUIRE_FALSE(tier->load(world.pool.access, std::array{piece(8, 0, 2)}, chain_of(2)));
}

TEST_CASE("a store that does not answer at the start has nothing, and the reason is there", "[kv_transfer]") {
    S3World world;
    world.server.set_faults([](const S3Server::Call&) { return Fault::refuse; });
    const auto tier = world.open(8);
    REQUIRE(tier->found().empty());
    REQUIRE(tier->why_not_all()->code == ErrorCode::permission_denied);
    REQUIRE(world.requests("list", "refused") == 1);
}

TEST_CASE("objects that nobody of ours wrote are not found", "[kv_transfer]") {
    S3World world;
    REQUIRE(world.open(8)->save(world.pool.access, std::array{piece(0, 0, 1)}, chain_of(1), std::nullopt));
    auto objects = world.server.objects();
    const auto [key, content] = *objects.begin();
    const std::string folder = key.substr(0, key.rfind('/') + 1);
    for (const std::string& name : {std::string("x"), std::string(32, 'g') + "-first", std::string(32, 'a') + "-",
                                    std::string(32, 'A') + "-first", std::string(32, 'a') + "first"}) {
        objects[folder + name] = content;
    }
    objects[folder + std::string(32, 'b') + "-first"] = "short";
    world.server.set_objects(objects);
    REQUIRE(world.open(8)->found().size() == 1);
}

TEST_CASE("settings that cannot be are refused by name", "[kv_transfer]") {
    S3World world;
    const auto error_of = [&world](const kv_transfer::S3Tier::Options& options) {
        return kv_transfer::S3Tier::open(world.pool.store, options, world.clock, world.metrics).error();
    };
    auto options = world.options(8);
    options.bytes = 100;
    REQUIRE(error_of(options).message.find("engine.kv_s3.bytes") != std::string::npos);
    options = world.options(8);
    options.buffer_bytes = options.buffer_bytes / 70 * 63;
    REQUIRE(error_of(options).message.find("engine.kv_s3.buffer_bytes") != std::string::npos);
    options = world.options(8);
    options.prefix = "a b";
    REQUIRE(error_of(options).message.find("engine.kv_s3.prefix") != std::string::npos);
    options.prefix = std::string(513, 'a');
    REQUIRE(error_of(options).message.find("512") != std::string::npos);
    options = world.options(8);
    options.store.bucket = "";
    REQUIRE(error_of(options).message.find("engine.kv_s3: bucket") != std::string::npos);
}
