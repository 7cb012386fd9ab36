// Vectors of the small encoders in data/ against those of a plain implementation in Python (make_encoder_golden.py).
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using Vector = std::vector<float>;

std::string read_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) { throw std::runtime_error("cannot open " + path); }
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Golden {
    explicit Golden(const std::string& name) : dir(std::string(SLUICE_GOLDEN_DIR) + "/" + name) {
        const json::value document = json::parse(read_text(dir + "/golden.json"));
        for (const json::value& text : document.at("texts").as_array()) {
            auto& tokens = texts.emplace_back();
            for (const json::value& token : text.at("tokens").as_array()) {
                tokens.push_back(token.to_number<base::TokenId>());
            }
        }
        const std::string bytes = read_text(dir + "/vectors.bin");
        const std::size_t width = bytes.size() / 4 / texts.size();
        vectors.assign(texts.size(), Vector(width));
        for (std::size_t i = 0; i < texts.size(); ++i) {
            std::memcpy(vectors[i].data(), bytes.data() + i * width * 4, width * 4);
        }
    }
    std::string dir;
    std::vector<std::vector<base::TokenId>> texts;
    std::vector<Vector> vectors;
};

/// The vectors of texts, as many in a step as there is room for.
std::vector<Vector> encode(engine::Engine& engine, const std::vector<std::vector<base::TokenId>>& texts,
                           std::size_t tokens_max, std::size_t texts_max) {
    std::vector<Vector> vectors;
    for (std::size_t next = 0; next < texts.size();) {
        engine::Batch batch;
        std::size_t tokens = 0;
        while (next < texts.size() && batch.entries().size() < texts_max && tokens + texts[next].size() <= tokens_max) {
            engine::BatchEntry& entry = batch.add();
            entry.sequence = base::SequenceId{next};
            entry.tokens = texts[next];
            entry.pooling = engine::Pooling::own;
            tokens += texts[next++].size();
        }
        const auto result = engine::run_to_end(engine, std::move(batch));
        REQUIRE(result);
        for (const engine::EntryResult& entry : result->entries) {
            REQUIRE_FALSE(entry.error.has_value());
            vectors.push_back(entry.pooled);
        }
    }
    return vectors;
}

double cosine(const Vector& a, const Vector& b) {
    double product = 0;
    double a_squares = 0;
    double b_squares = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        product += double{a[i]} * b[i];
        a_squares += double{a[i]} * a[i];
        b_squares += double{b[i]} * b[i];
    }
    return product / std::sqrt(a_squares * b_squares);
}

/// Largest difference over the largest element of `expected`.
double distance(const Vector& got, const Vector& expected) {
    double difference = 0;
    double largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        difference = std::max(difference, std::abs(double{got[i]} - double{expected[i]}));
        largest = std::max(largest, std::abs(double{expected[i]}));
    }
    return difference / largest;
}

}  // namespace

TEST_CASE("vectors of sentence encoders equal those of a plain implementation", "[golden]") {
    const std::string name = GENERATE("bert_mean", "bert_first");
    const Golden golden(name);
    const test_engine::TemporaryFolder folder;
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(name, family);
        auto options = test_engine::options_for(golden.dir, folder.file("packed"));
        options.kernels = family;
        const auto engine = test_engine::load(options);
        REQUIRE_FALSE(engine->keeps_kv());
        REQUIRE(engine->shape().context_tokens == 290);
        const auto vectors = encode(*engine, golden.texts, options.batch_tokens_max, options.batch_sequences_max);
        REQUIRE(vectors.size() == golden.vectors.size());
        for (std::size_t i = 0; i < vectors.size(); ++i) {
            CAPTURE(i, golden.texts[i].size());
            REQUIRE(vectors[i].size() == golden.vectors[i].size());
            CHECK(distance(vectors[i], golden.vectors[i]) < 2e-5);
            CHECK(cosine(vectors[i], golden.vectors[i]) > 0.999999);
        }
    }
}

TEST_CASE("an encoder in BF16 stays near its vectors", "[golden]") {
    const std::string name = GENERATE("bert_mean", "bert_first");
    const Golden golden(name);
    const test_engine::TemporaryFolder folder;
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(name, family);
        auto options = test_engine::options_for(golden.dir, folder.file("packed"));
        options.kernels = family;
        options.weight_format = "bf16";
        const auto engine = test_engine::load(options);
        const auto vectors = encode(*engine, golden.texts, options.batch_tokens_max, options.batch_sequences_max);
        bool differs = false;
        for (std::size_t i = 0; i < vectors.size(); ++i) {
            CAPTURE(i, golden.texts[i].size());
            CHECK(cosine(vectors[i], golden.vectors[i]) > 0.999);
            differs = differs || distance(vectors[i], golden.vectors[i]) > 1e-4;
        }
        CHECK(differs);
    }
}

TEST_CASE("a text's vector has the same bits alone, in any company and on any number of threads", "[golden]") {
    const Golden golden("bert_mean");
    const test_engine::TemporaryFolder folder;
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(family);
        auto options = test_engine::options_for(golden.dir, folder.file("packed"));
        options.kernels = family;
        const auto engine = test_engine::load(options);
        const auto alone = encode(*engine, golden.texts, 290, 1);
        const auto together = encode(*engine, golden.texts, options.batch_tokens_max, options.batch_sequences_max);
        REQUIRE(together == alone);
        const std::vector<std::vector<base::TokenId>> backwards(golden.texts.rbegin(), golden.texts.rend());
        auto others = encode(*engine, backwards, options.batch_tokens_max, options.batch_sequences_max);
        std::reverse(others.begin(), others.end());
        REQUIRE(others == alone);
        options.threads = 3;
        const auto threaded = test_engine::load(options);
        REQUIRE(encode(*threaded, golden.texts, options.batch_tokens_max, options.batch_sequences_max) == alone);
        REQUIRE(threaded->numerics_id() == engine->numerics_id());
    }
}
