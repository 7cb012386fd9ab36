// Vectors of a model beside the hashed ones.
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "caching/semantic/embedder.h"
#include "caching/semantic/partition.h"
#include "caching/semantic/semantic_cache.h"
#include "tests/support/catch.h"

namespace {

const std::string kAsked = "How do I list hidden files in a folder?";
const std::string kReworded = "How can I list hidden files in a folder?";

double product(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    return static_cast<double>(std::inner_product(a.begin(), a.end(), b.begin(), 0.0F));
}

caching::Question ask(const std::string& text) {
    caching::Question question;
    question.tenant = "acme";
    question.model = "m";
    question.messages = {{"user", text}};
    return question;
}

}  // namespace

TEST_CASE("of a blended vector each half counts for half, and the hashed one can be asked alone", "[caching]") {
    const caching::HashedEmbedder hashed;
    const std::vector<float> a = hashed.embed_one(kAsked);
    const std::vector<float> b = hashed.embed_one(kReworded);
    const std::vector<float> both_a = caching::blended({3, 0}, a);
    const std::vector<float> both_b = caching::blended({0, 5}, b);
    CHECK(product(both_a, both_a) == Approx(1.0).margin(1e-5));
    CHECK(product(both_a, both_b) == Approx(0.5 * product(a, b)).margin(1e-5));
    CHECK(product(both_a, caching::hashed_part(b, both_a.size())) == Approx(product(a, b)).margin(1e-5));
    CHECK(caching::hashed_part(b, b.size()) == b);
    CHECK(caching::hashed_part(b, b.size() - 1).empty());
}

TEST_CASE("products of the last numbers of rows are those of the vectors", "[caching]") {
    std::mt19937 random{3};
    std::normal_distribution<float> draw;
    const auto vector_of = [&](std::size_t size) {
        std::vector<float> vector(size);
        for (float& value : vector) {
            value = draw(random);
        }
        caching::normalise(vector);
        return vector;
    };
    constexpr std::size_t kWhole = 100;
    constexpr std::size_t kTail = 61;
    for (const caching::DotRows dot : {caching::dot_rows_reference, caching::best_dot_rows()}) {
        caching::Partition partition(kWhole, dot);
        std::vector<std::vector<float>> vectors;
        for (std::uint64_t id = 0; id < 40; ++id) {
            vectors.push_back(vector_of(kWhole));
            partition.add(caching::EntryId{id}, vectors.back());
        }
        partition.remove(7);  // the last one takes its row
        const auto nearest = partition.nearest(vector_of(kWhole), 40);
        REQUIRE(nearest.size() == 39);
        const std::vector<float> tail = vector_of(kTail);
        const std::vector<float> products = partition.tail_products(nearest, tail);
        for (std::size_t at = 0; at < nearest.size(); ++at) {
            const auto& whole = vectors.at(static_cast<std::size_t>(nearest[at].entry));
            const std::vector<float> end(whole.end() - static_cast<std::ptrdiff_t>(kTail), whole.end());
            CHECK(static_cast<double>(products[at]) == Approx(product(end, tail)).margin(0.02));
        }
    }
}

TEST_CASE("where a model's vectors are given, hashed ones are evidence of their own", "[caching]") {
    base::FakeClock clock;
    const caching::HashedEmbedder hashed;
    caching::GivenVectors given("e", hashed);
    caching::SemanticCache cache({}, clock, given, hashed);
    const auto look = [&](const std::string& text, std::vector<float> model) {
        return cache.lookup(ask(text), 0, caching::blended(std::move(model), hashed.embed_one(text)));
    };
    caching::Answer answer;
    answer.content = "ls -a";
    cache.store(ask(kAsked), look(kAsked, {1, 0}).probe, answer);
    const double words = product(hashed.embed_one(kAsked), hashed.embed_one(kReworded));
    const auto alike = look(kReworded, {1, 0});
    CHECK(alike.kind == caching::HitKind::semantic);
    CHECK(alike.probe.evidence.similarity == Approx((1 + words) / 2).margin(0.02));
    CHECK(alike.probe.evidence.lean == Approx((words - 1) / 2).margin(0.03));
    CHECK(alike.probe.evidence.words_vote > 0);
    const auto unlike = look(kReworded, {-1, 0});
    CHECK(unlike.kind == caching::HitKind::none);
    CHECK(unlike.probe.evidence.lean == Approx((words + 1) / 2).margin(0.03));
    // Without a vector only an equal question is found, and nothing breaks.
    CHECK(cache.lookup(ask(kReworded)).kind == caching::HitKind::none);
    CHECK(cache.lookup(ask(kAsked)).kind == caching::HitKind::exact);
    CHECK(cache.counts().refused_unembedded == 1);
}
