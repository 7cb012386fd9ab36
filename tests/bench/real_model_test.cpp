// A real model, fetched at its first use: its ids and its perplexity are the peer's, and its numbers do not depend on
// company.
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bench/perplexity.h"
#include "tests/engine/support.h"
#include "text/tokenizer.h"

#include "tests/support/catch.h"
#include "tests/support/real_model.h"

namespace {

const std::string kSource = SLUICE_SOURCE_DIR;

/// What llama.cpp says of the same file: tests/data/peer/ORIGIN.md.
boost::json::object peer_data() {
    std::ifstream file(kSource + "/tests/data/peer/smollm2-135m-instruct.json");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    return boost::json::parse(text).as_object();
}

std::vector<base::TokenId> ids_of(const boost::json::value& list) {
    std::vector<base::TokenId> ids;
    for (const boost::json::value& id : list.as_array()) {
        ids.push_back(static_cast<base::TokenId>(id.as_int64()));
    }
    return ids;
}

}  // namespace

TEST_CASE("a real model's ids are llama.cpp's", "[model]") {
    const auto model = test_support::real_model();
    if (!model) { return; }
    const auto tokenizer = text::Tokenizer::load(*model);
    REQUIRE(tokenizer);
    const auto data = peer_data();
    REQUIRE(data.at("texts").as_array().size() >= 40);
    for (const boost::json::value& row : data.at("texts").as_array()) {
        const std::string text(row.at("text").as_string());
        CAPTURE(text);
        const auto ids = (*tokenizer)->encode(text, {.parse_special = row.at("parse_special").as_bool()});
        REQUIRE(ids);
        REQUIRE(*ids == ids_of(row.at("ids")));
    }
}

TEST_CASE("a real model's perplexity is llama.cpp's within half a percent", "[model]") {
    const auto model = test_support::real_model();
    if (!model) { return; }
    const auto data = peer_data();
    bench::PerplexityOptions options;
    options.model_dir = *model;
    options.text_path = kSource + "/" + std::string(data.at("perplexity").at("text").as_string());
    options.context = static_cast<std::uint32_t>(data.at("perplexity").at("context").as_int64());
    const auto report = bench::measure_perplexity(options);
    REQUIRE(report);
    REQUIRE(report->plan.windows == static_cast<std::size_t>(data.at("perplexity").at("windows").as_int64()));
    const double expected = data.at("perplexity").at("value").as_double();
    CAPTURE(report->likelihood.perplexity(), expected);
    REQUIRE(std::abs(report->likelihood.perplexity() / expected - 1) < 0.005);
}

TEST_CASE("a real model's logits do not depend on company or chunks", "[model]") {
    const auto model = test_support::real_model();
    if (!model) { return; }
    auto options = test_engine::options_for(*model, "");
    options.kv_pool_bytes = 64u << 20;
    const auto engine = test_engine::load(options);
    std::mt19937 random{1};
    std::vector<test_engine::Stream> alone(3);
    std::uint32_t block = 0;
    for (test_engine::Stream& stream : alone) {
        stream.prompt = test_engine::random_tokens(random, 40 + random() % 60, engine->shape().vocabulary);
        stream.blocks = test_engine::block_run(block, 8);
        block += 8;
    }
    std::vector<test_engine::Stream> together = alone;
    for (test_engine::Stream& stream : alone) {
        for (std::size_t i = 0; i < stream.prompt.size(); ++i) {
            REQUIRE(test_engine::run_step(*engine, {{&stream, 1}}));
        }
    }
    std::vector<test_engine::Share> shares;
    for (test_engine::Stream& stream : together) {
        stream.blocks = test_engine::block_run(block, 8);
        block += 8;
        shares.push_back({&stream, static_cast<std::uint32_t>(stream.prompt.size())});
    }
    REQUIRE(test_engine::run_step(*engine, shares));
    for (std::size_t i = 0; i < alone.size(); ++i) {
        REQUIRE(alone[i].logits == together[i].logits);
        REQUIRE(alone[i].generated == together[i].generated);
    }
}
