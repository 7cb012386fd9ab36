#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "caching/in_context/options.h"
#include "caching/semantic/dot.h"

namespace caching {

class ByteReader;
class ByteWriter;

/// What answers to questions like this one were worth: the last judged answers of both models by the vector of their
/// question. No texts. Of all partitions together: what is shared is how well a model answers, never what. Not
/// thread-safe.
class QualityMemory {
public:
    explicit QualityMemory(std::size_t dimensions, std::size_t capacity = 2048, DotRows dot_rows = best_dot_rows());

    /// A judged answer, 0 to 1; the oldest one goes when there are too many.
    void add(std::span<const float> vector, Arm arm, double quality);
    /// The mean of the answers to the nearest questions, the nearer the more, drawn to the mean of all; `fallback`
    /// where nothing is known.
    double near(std::span<const float> vector, Arm arm, double fallback) const;
    /// Another model answers now.
    void forget(Arm arm);
    std::size_t size(Arm arm) const { return of(arm).qualities.size(); }

    /// For another life. Nothing changes where it says false.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    struct Ring {
        std::vector<std::int8_t> rows;  // [size, dimensions]
        std::vector<float> scales;
        std::vector<double> qualities;
        std::size_t next = 0;  // the oldest, once it is full
        double sum = 0;
    };
    const Ring& of(Arm arm) const { return rings_[arm == Arm::small ? 0 : 1]; }

    std::size_t dimensions_;
    std::size_t capacity_;
    DotRows dot_rows_;
    Ring rings_[2];
};

}  // namespace caching
