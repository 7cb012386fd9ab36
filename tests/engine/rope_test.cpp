#include "engine/model/rope.h"

#include <cmath>
#include <numbers>

#include "tests/engine/support.h"
#include "tests/support/catch.h"

TEST_CASE("rotary tables hold cosine and sine of position times frequency", "[engine][rope]") {
    base::ModelShape shape = test_engine::small_shape();
    shape.head_dim = 8;
    const engine::RopeTable table = engine::make_rope_table(shape, 200);
    REQUIRE(table.head_dim == 8);
    REQUIRE(table.cosines.size() == 200 * 4);
    for (std::size_t position = 0; position < 200; ++position) {
        for (std::size_t i = 0; i < 4; ++i) {
            const auto frequency = static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / 4));
            const double angle = static_cast<double>(static_cast<float>(position) * frequency);
            REQUIRE(std::abs(static_cast<double>(table.cosines[position * 4 + i]) - std::cos(angle)) < 1e-5);
            REQUIRE(std::abs(static_cast<double>(table.sines[position * 4 + i]) - std::sin(angle)) < 1e-5);
        }
    }
}

TEST_CASE("linear scaling divides all frequencies", "[engine][rope]") {
    base::ModelShape shape = test_engine::small_shape();
    const auto plain = engine::rope_frequencies(shape);
    shape.rope_scaling.kind = base::RopeScaling::Kind::linear;
    shape.rope_scaling.factor = 4.0;
    const auto scaled = engine::rope_frequencies(shape);
    for (std::size_t i = 0; i < plain.size(); ++i) {
        REQUIRE(scaled[i] == plain[i] / 4);
    }
}

TEST_CASE("llama3 scaling keeps fast waves, stretches slow ones and blends between", "[engine][rope]") {
    base::ModelShape shape = test_engine::small_shape();
    shape.head_dim = 64;
    shape.rope_theta = 500000.0;
    const auto plain = engine::rope_frequencies(shape);
    shape.rope_scaling = {base::RopeScaling::Kind::llama3, 8.0, 1.0, 4.0, 8192};
    const auto scaled = engine::rope_frequencies(shape);
    int kept = 0;
    int stretched = 0;
    int blended = 0;
    for (std::size_t i = 0; i < plain.size(); ++i) {
        const double wavelength = 2 * std::numbers::pi / static_cast<double>(plain[i]);
        if (wavelength < 8192 / 4.0) {
            REQUIRE(scaled[i] == plain[i]);
            ++kept;
        } else if (wavelength > 8192) {
            REQUIRE(scaled[i] == plain[i] / 8);
            ++stretched;
        } else {
            REQUIRE(scaled[i] < plain[i]);
            REQUIRE(scaled[i] > plain[i] / 8);
            ++blended;
        }
    }
    REQUIRE(kept > 0);
    REQUIRE(stretched > 0);
    REQUIRE(blended > 0);
}
