#include "engine/model/rope.h"

#include <numbers>

#include "engine/exact_math.h"

namespace engine {
namespace {

/// Llama 3.1: slow waves are stretched by `factor`, fast ones stay, those between are blended.
double scale_llama3(double frequency, const base::RopeScaling& scaling) {
    const double original = scaling.original_max_position_tokens;
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength > original / scaling.low_freq_factor) { return frequency / scaling.factor; }
    if (wavelength < original / scaling.high_freq_factor) { return frequency; }
    const double smooth =
        (original / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    return (1.0 - smooth) * frequency / scaling.factor + smooth * frequency;
}

}  // namespace

std::vector<float> rope_frequencies(const base::ModelShape& shape) {
    const std::uint32_t pairs = shape.head_dim / 2;
    std::vector<float> frequencies(pairs);
    for (std::uint32_t i = 0; i < pairs; ++i) {
        const double exponent = 2.0 * i / shape.head_dim;
        const auto plain = static_cast<float>(1.0 / exact::pow(shape.rope_theta, exponent));
        double frequency = static_cast<double>(plain);
        switch (shape.rope_scaling.kind) {
            case base::RopeScaling::Kind::none:
                break;
            case base::RopeScaling::Kind::linear:
                frequency /= shape.rope_scaling.factor;
                break;
            case base::RopeScaling::Kind::llama3:
                frequency = scale_llama3(frequency, shape.rope_scaling);
                break;
        }
        frequencies[i] = static_cast<float>(frequency);
    }
    return frequencies;
}

RopeTable make_rope_table(const base::ModelShape& shape, std::uint32_t positions) {
    const std::vector<float> frequencies = rope_frequencies(shape);
    RopeTable table;
    table.head_dim = shape.head_dim;
    table.cosines.reserve(std::size_t{positions} * frequencies.size());
    table.sines.reserve(std::size_t{positions} * frequencies.size());
    for (std::uint32_t position = 0; position < positions; ++position) {
        for (const float frequency : frequencies) {
            const float angle = static_cast<float>(position) * frequency;
            const auto [sine, cosine] = exact::sine_cosine(static_cast<double>(angle));
            table.cosines.push_back(static_cast<float>(cosine));
            table.sines.push_back(static_cast<float>(sine));
        }
    }
    return table;
}

}  // namespace engine
