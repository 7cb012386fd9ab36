#include <algorithm>
#include <random>

#include "scheduler/planner/curve.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

using scheduler::planner::Curve;
using scheduler::planner::Grid;

TEST_CASE("a curve never falls, whatever the noise, and keeps what did not fall", "[scheduler][planner][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(50)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::uniform_real_distribution<double> noise(0, 4);
    std::vector<Curve::Sample> noisy;
    std::vector<Curve::Sample> rising;
    double sum = 0;
    for (int i = 0; i < 40; ++i) {
        const double x = static_cast<double>(random() % 200);
        noisy.push_back({x, x / 10 + noise(random)});
        rising.push_back({static_cast<double>(i), sum += noise(random)});
    }
    const Curve curve(noisy);
    double before = 0;
    for (double x = -5; x < 400; x += 0.5) {
        REQUIRE(curve.at(x) >= before);
        before = curve.at(x);
    }
    const Curve exact(rising);
    for (const auto& sample : rising) {
        REQUIRE(exact.at(sample.x) == Approx(sample.y));
    }
    REQUIRE(exact.at(-1) == rising.front().y);
    REQUIRE(exact.at(1000) > rising.back().y);
    REQUIRE(Curve{}.at(3) == 0);
}

TEST_CASE("a grid with holes never falls in any variable", "[scheduler][planner][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(30)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::uniform_real_distribution<double> noise(0, 1);
    std::vector<Grid::Point> points;
    for (int i = 0; i < 60; ++i) {
        const double a = static_cast<double>(1u << random() % 6);
        const double b = static_cast<double>(random() % 5 * 10);
        const double c = static_cast<double>(random() % 4);
        points.push_back({{a, b, c}, a + b + c + noise(random)});
    }
    const Grid grid(3, points);
    std::uniform_real_distribution<double> place(0, 60);
    for (int i = 0; i < 200; ++i) {
        const double a = place(random);
        const double b = place(random);
        const double c = place(random) / 10;
        const double at = grid.at(std::array{a, b, c});
        REQUIRE(grid.at(std::array{a + place(random), b, c}) >= at - 1e-9);
        REQUIRE(grid.at(std::array{a, b + place(random), c}) >= at - 1e-9);
        REQUIRE(grid.at(std::array{a, b, c + place(random)}) >= at - 1e-9);
    }
}

TEST_CASE("a grid of two axes says what one of three does whose third has a single point", "[scheduler][planner]") {
    std::mt19937 random(3);
    std::uniform_real_distribution<double> place(0, 1);
    std::vector<Grid::Point> flat;
    std::vector<Grid::Point> deep;
    for (const double a : {1.0, 2.0, 8.0, 9.0}) {
        for (const double b : {0.0, 10.0, 100.0}) {
            const double value = place(random) * a * (b + 1);
            flat.push_back({{a, b}, value});
            deep.push_back({{a, b, 5}, value});
        }
    }
    const Grid two(2, flat);
    const Grid three(3, deep);
    for (int i = 0; i < 2000; ++i) {
        // Inside, before the first points, beyond the last ones, and on points.
        const double a = i % 5 == 0 ? 8 : 12 * place(random);
        const double b = i % 7 == 0 ? 10 : 130 * place(random);
        REQUIRE(two.at(std::array{a, b}) == three.at(std::array{a, b, 5.0}));
    }
}

TEST_CASE("a grid is exact where the truth is a product, and near it beyond its last point", "[scheduler][planner]") {
    std::vector<Grid::Point> points;
    for (const double a : {1.0, 2.0, 8.0}) {
        for (const double b : {0.0, 10.0, 100.0}) {
            points.push_back({{a, b}, 3 + 2 * a + a * b});
        }
    }
    const Grid grid(2, points);
    for (const double a : {1.0, 1.5, 7.0, 8.0}) {
        for (const double b : {0.0, 5.0, 60.0, 100.0}) {
            REQUIRE(grid.at(std::array{a, b}) == Approx(3 + 2 * a + a * b));
        }
    }
    // Beyond, where the product is most of it.
    REQUIRE(grid.at(std::array{16.0, 400.0}) == Approx(3 + 2 * 16 + 16 * 400).epsilon(0.02));
    REQUIRE(grid.at(std::array{0.5, 10.0}) == Approx(15));  // below the first point: as at it
    REQUIRE(Grid{}.at(std::array{1.0}) == 0);
}
