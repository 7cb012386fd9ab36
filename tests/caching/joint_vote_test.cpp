#include "caching/semantic/joint_vote.h"

#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "caching/semantic/dot.h"
#include "caching/semantic/embedder.h"
#include "caching/semantic/partition.h"
#include "tests/support/catch.h"

using caching::joint_vote;

namespace {

constexpr double kWidth = 0.25;
constexpr double kNoise = 0.05;

double kernel(double cosine) {
    return std::exp((cosine - 1.0) / kWidth);
}

/// Cosines of two groups: within the first one `within`, of the others (themselves aside) `apart`.
std::vector<float> cosines(std::size_t first, std::size_t others, float within, float apart) {
    const std::size_t n = first + others;
    std::vector<float> among(n * n, apart);
    for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
            if (i < first && j < first) { among[i * n + j] = within; }
        }
        among[i * n + i] = 1.0F;
    }
    return among;
}

std::vector<std::uint64_t> answers_of(std::size_t first, std::size_t others) {
    std::vector<std::uint64_t> answers(first, 1);
    answers.resize(first + others, 2);
    return answers;
}

}  // namespace

TEST_CASE("what one neighbour says follows from its nearness alone", "[caching]") {
    const auto asked = joint_vote(std::vector{1.0F}, std::vector{1.0F}, std::vector<std::uint64_t>{7}, 7);
    CHECK(asked.mine == Approx(1 / (1 + kNoise)).margin(1e-5));
    CHECK(asked.lead == Approx(asked.mine));
    CHECK(asked.unexplained == Approx(1 - 1 / (1 + kNoise)).margin(1e-5));
    CHECK(asked.first == 1.0);
    const auto far = joint_vote(std::vector{1.0F}, std::vector{-1.0F}, std::vector<std::uint64_t>{7}, 7);
    CHECK(far.mine < 0.001);
    CHECK(far.unexplained > 0.999);
    const auto other = joint_vote(std::vector{1.0F}, std::vector{0.9F}, std::vector<std::uint64_t>{7}, 8);
    CHECK(other.mine == 0.0);
    CHECK(other.lead == Approx(-kernel(0.9) / (1 + kNoise)).margin(1e-5));
    CHECK(other.first == 0.0);
    const auto nobody = joint_vote({}, {}, {}, 7);
    CHECK(nobody.unexplained == 1.0);
    CHECK(nobody.mine == 0.0);
}

TEST_CASE("ten copies of one question are one voice, ten questions of one answer are more", "[caching]") {
    const std::vector<float> to_question(11, 0.8F);
    const auto answers = answers_of(10, 1);
    const auto copies = joint_vote(cosines(10, 1, 0.999F, 0.6F), to_question, answers, 1);
    const auto spread = joint_vote(cosines(10, 1, 0.6F, 0.6F), to_question, answers, 1);
    CHECK(copies.lead < 0.15);
    CHECK(spread.lead > 0.5);
    CHECK(spread.unexplained < copies.unexplained);
    // The one of the other answer says as much as the ten copies of the first do, or nearly.
    const auto one = joint_vote(cosines(10, 1, 0.999F, 0.6F), to_question, answers, 2);
    CHECK(one.mine > 0.7 * copies.mine);
    CHECK(one.lead == Approx(-copies.lead).margin(1e-5));
}

TEST_CASE("a neighbour behind another one adds nothing", "[caching]") {
    // On a line: the question, one of the first answer beside it, one of the second behind that.
    const auto near =
        joint_vote(std::vector{1.0F, 0.9F, 0.9F, 1.0F}, std::vector{0.95F, 0.85F}, std::vector<std::uint64_t>{1, 2}, 1);
    // On two sides of it.
    const auto between =
        joint_vote(std::vector{1.0F, 0.8F, 0.8F, 1.0F}, std::vector{0.95F, 0.85F}, std::vector<std::uint64_t>{1, 2}, 1);
    CHECK(near.lead > between.lead);
    CHECK(near.first == 1.0);
}

TEST_CASE("the voices solve the neighbours' equations, whatever their vectors", "[caching]") {
    for (unsigned seed = 0; seed < 20; ++seed) {
        CAPTURE(seed);
        std::mt19937 random{seed};
        std::normal_distribution<float> normal;
        const std::size_t n = 1 + random() % 64;
        const std::size_t dimensions = 1 + random() % 40;
        std::vector<std::vector<float>> vectors(n + 1, std::vector<float>(dimensions));
        for (auto& vector : vectors) {
            for (float& value : vector) {
                value = normal(random);
            }
            caching::normalise(vector);
        }
        const auto cosine = [&](std::size_t a, std::size_t b) {
            return std::inner_product(vectors[a].begin(), vectors[a].end(), vectors[b].begin(), 0.0F);
        };
        std::vector<float> among;
        std::vector<float> to_question;
        std::vector<std::uint64_t> answers(n);
        std::iota(answers.begin(), answers.end(), 0);  // each its own: `mine` is its voice
        for (std::size_t i = 0; i < n; ++i) {
            to_question.push_back(cosine(i, n));
            for (std::size_t j = 0; j < n; ++j) {
                among.push_back(cosine(i, j));
            }
        }
        std::vector<double> voices;
        double explained = 0;
        for (std::size_t i = 0; i < n; ++i) {
            voices.push_back(joint_vote(among, to_question, answers, i).mine);
            explained += voices[i] * kernel(static_cast<double>(to_question[i]));
        }
        for (std::size_t i = 0; i < n; ++i) {
            double sum = kNoise * voices[i];
            for (std::size_t j = 0; j < n; ++j) {
                sum += kernel(static_cast<double>(among[i * n + j])) * voices[j];
            }
            REQUIRE(sum == Approx(kernel(static_cast<double>(to_question[i]))).margin(1e-3));
        }
        CHECK(joint_vote(among, to_question, answers, 0).unexplained == Approx(1 - explained).margin(1e-3));
    }
}

TEST_CASE("cosines that rounding put beyond 1 do no harm", "[caching]") {
    const std::size_t n = 64;
    const std::vector<float> among(n * n, 1.01F);
    const auto vote = joint_vote(among, std::vector<float>(n, 1.01F), std::vector<std::uint64_t>(n, 3), 3);
    CHECK(vote.mine == Approx(1).margin(0.02));
    CHECK(vote.unexplained == Approx(0).margin(0.02));
}

TEST_CASE("products of rows with each other are those of the vectors", "[caching]") {
    std::mt19937 random{5};
    std::normal_distribution<float> normal;
    constexpr std::size_t kDimensions = 101;
    for (const caching::DotRows dot : {caching::dot_rows_reference, caching::best_dot_rows()}) {
        caching::Partition partition(kDimensions, dot);
        std::vector<std::vector<float>> vectors;
        for (std::uint64_t id = 0; id < 30; ++id) {
            auto& vector = vectors.emplace_back(kDimensions);
            for (float& value : vector) {
                value = normal(random);
            }
            caching::normalise(vector);
            partition.add(caching::EntryId{id}, vector);
        }
        partition.remove(4);  // the last one takes its row
        vectors[4] = vectors.back();
        const std::vector<std::uint32_t> rows = {4, 0, 28, 7};
        const std::vector<float> products = partition.products_among(rows);
        REQUIRE(products.size() == rows.size() * rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) {
            for (std::size_t j = 0; j < rows.size(); ++j) {
                const auto& a = vectors[rows[i]];
                const float wanted = std::inner_product(a.begin(), a.end(), vectors[rows[j]].begin(), 0.0F);
                CHECK(static_cast<double>(products[i * rows.size() + j]) ==
                      Approx(static_cast<double>(wanted)).margin(0.02));
            }
        }
        CHECK(partition.products_among({}).empty());
    }
}
