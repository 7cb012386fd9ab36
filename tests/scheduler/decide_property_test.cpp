// Deciding by a look at a few workers, held against a look at all.
#include "scheduler/decide.h"

#include <zlib.h>

#include <boost/json.hpp>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "bench/played_cluster.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

using bench::PlayedCluster;
using bench::PlayedRequest;

struct Agreement {
    std::size_t decided = 0;
    std::size_t same = 0;
    std::size_t hits = 0;  // of the scan: with a prefix
    double share() const { return static_cast<double>(same) / static_cast<double>(decided); }
};

/// Plays the requests; `at` counts for their order only: they come so that the workers for prefill are busy for `load`
/// of the time.
Agreement play(const std::vector<PlayedRequest>& requests, PlayedCluster::Options options, double load) {
    scheduler::Registry registry({.workers_max = options.workers, .prefix_blocks_max = 1 << 20});
    PlayedCluster cluster(options, registry);
    double busy = 0;
    for (const PlayedRequest& request : requests) {
        busy += cluster.busy_seconds(request);
    }
    const double workers = options.workers * (options.prefill_share > 0 ? options.prefill_share : 1);
    const double span = requests.back().at - requests.front().at;
    const double pace = busy / (workers * load) / span;
    Agreement agreement;
    for (const PlayedRequest& request : requests) {
        cluster.advance(1 + (request.at - requests.front().at) * pace);
        const auto query = cluster.query_of(request);
        const auto outcome = scheduler::decide(registry, {}, query, request.chain, cluster.now());
        const auto by_scan = scheduler::decide_by_scan(registry, {}, query, request.chain, cluster.now());
        const auto* placement = std::get_if<scheduler::Placement>(&outcome);
        const auto* wanted = std::get_if<scheduler::Placement>(&by_scan);
        REQUIRE(placement != nullptr);
        REQUIRE(wanted != nullptr);
        REQUIRE(wanted->queue_seconds >= 0);
        REQUIRE(wanted->ttft_seconds > 0);
        ++agreement.decided;
        agreement.same += placement->prefill == wanted->prefill && placement->decode == wanted->decode;
        agreement.hits += wanted->cached_prompt_tokens > 0;
        // What the few are said to hold is what they hold.
        if (placement->prefill == wanted->prefill) {
            REQUIRE(placement->cached_prompt_tokens == wanted->cached_prompt_tokens);
        }
        cluster.take(request, *placement);
    }
    return agreement;
}

/// Conversations over a shared start, each turn longer than the one before, beside prompts that come once.
std::vector<PlayedRequest> make_requests(std::uint32_t seed, std::size_t count, double tpot_seconds) {
    std::mt19937 random{seed};
    std::exponential_distribution<double> gap(1);
    std::lognormal_distribution<double> length(7, 1.2);
    std::vector<std::vector<base::BlockHash>> conversations(count / 8 + 1);
    std::vector<PlayedRequest> requests;
    std::uint64_t next_block = 1000;
    double at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        auto& chain = conversations[random() % conversations.size()];
        if (chain.empty() || random() % 4 == 0) { chain = scheduler_test::make_hashes(0, 20); }
        const auto grown = static_cast<std::uint32_t>(std::clamp(length(random), 16.0, 30'000.0));
        for (std::uint32_t block = 0; block < grown / 16; ++block) {
            chain.push_back(scheduler_test::make_hash(++next_block));
        }
        requests.push_back({.at = at += gap(random),
                            .prompt_tokens = static_cast<std::uint32_t>(chain.size()) * 16 + grown % 16 + 1,
                            .answer_tokens = static_cast<std::uint32_t>(50 + random() % 400),
                            .chain = chain,
                            .ttft_seconds = scheduler::kNoTarget,
                            .tpot_seconds = tpot_seconds});
    }
    return requests;
}

std::string unpacked(const std::string& path) {
    gzFile file = gzopen(path.c_str(), "rb");
    std::string text;
    if (file == nullptr) { return text; }
    std::vector<char> buffer(1 << 16);
    for (int read = 0; (read = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0;) {
        text.append(buffer.data(), static_cast<std::size_t>(read));
    }
    gzclose(file);
    return text;
}

/// Mooncake's form: a line a request, with one id for each 512 tokens of its prompt.
std::vector<PlayedRequest> read_trace(const std::string& text) {
    std::vector<PlayedRequest> requests;
    for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        const auto line = boost::json::parse(std::string_view(text).substr(begin, end - begin)).as_object();
        begin = end + 1;
        PlayedRequest request{.at = line.at("timestamp").to_number<double>() * 1e-3,
                              .prompt_tokens = line.at("input_length").to_number<std::uint32_t>(),
                              .answer_tokens = std::max(1u, line.at("output_length").to_number<std::uint32_t>())};
        for (const auto& id : line.at("hash_ids").as_array()) {
            if (request.chain.size() == request.prompt_tokens / 512) { break; }  // the last one is not full
            request.chain.push_back(scheduler_test::make_hash(id.to_number<std::uint64_t>() + 1));
        }
        requests.push_back(std::move(request));
    }
    return requests;
}

}  // namespace

TEST_CASE("of many workers the same are chosen by a look at a few as by a look at all", "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(2)));
    const auto prefill_share = GENERATE(0.0, 0.5);
    const auto load = GENERATE(0.3, 0.9);
    const double tpot_seconds = GENERATE(as<double>(), scheduler::kNoTarget, 0.02);
    CAPTURE(seed, prefill_share, load, tpot_seconds);
    const auto agreement = play(make_requests(seed, 1500, tpot_seconds),
                                {.workers = 100, .prefill_share = prefill_share, .seed = seed}, load);
    CAPTURE(agreement.hits);
    REQUIRE(agreement.hits > agreement.decided / 4);  // prefixes were weighed against queues
    REQUIRE(agreement.share() >= 0.99);
}

TEST_CASE("prompts longer than all before are placed as by a look at all from the first one on",
          "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(2)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::vector<PlayedRequest> requests;
    for (std::size_t i = 0; i < 800; ++i) {
        const bool is_long = i >= 600 && i % 4 == 0;
        requests.push_back(
            {.at = static_cast<double>(i) + static_cast<double>(random() % 100) * 1e-2,
             .prompt_tokens = static_cast<std::uint32_t>(is_long ? 60'000 + random() % 60'000 : 50 + random() % 3'000),
             .answer_tokens = static_cast<std::uint32_t>(50 + random() % 400),
             .chain = {},
             .ttft_seconds = scheduler::kNoTarget,
             .tpot_seconds = scheduler::kNoTarget});
    }
    const auto agreement =
        play(requests, {.workers = 100, .prefill_share = 0, .blocks_total = 20'000, .seed = seed}, 0.7);
    REQUIRE(agreement.share() >= 0.99);
}

TEST_CASE("and so on Mooncake's traces", "[scheduler][property]") {
    const char* folder = std::getenv("SLUICE_TRACES");
    if (folder == nullptr) {
        std::cout << "SKIPPED: SLUICE_TRACES does not name a folder with Mooncake's traces" << std::endl;
        return;
    }
    const auto name = GENERATE(as<std::string>(), "mooncake_conversation_first_half.jsonl.gz",
                               "mooncake_synthetic_first_half.jsonl.gz");
    const auto prefill_share = GENERATE(0.0, 0.5);
    const auto load = GENERATE(0.5, 0.9);
    auto requests = read_trace(unpacked(std::string(folder) + "/" + name));
    REQUIRE(requests.size() > 500);
    requests.resize(std::min<std::size_t>(requests.size(), 3000));
    const auto agreement = play(
        requests,
        {.workers = 100, .prefill_share = prefill_share, .block_tokens = 512, .blocks_total = 20'000, .seed = 1}, load);
    CAPTURE(name, prefill_share, load, agreement.hits);
    REQUIRE(agreement.share() >= 0.99);
}
