#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace caching {

/// Texts to vectors of length 1. Which one made a vector is part of every partition, so two never mix.
class Embedder {
public:
    virtual ~Embedder() = default;
    /// Names the vectors: equal names give equal vectors.
    virtual std::string name() const = 0;
    /// 0: each vector says it itself.
    virtual std::size_t dimensions() const = 0;
    /// One vector a text, in order. Error: the model's.
    virtual base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) = 0;
};

/// Without a model: hashed words, word pairs and runs of bytes through a projection of 8,192 rows that was learnt from
/// questions with equal intents and commands (docs/caching.md says which). About 20 us a sentence. Thread-safe.
class HashedEmbedder final : public Embedder {
public:
    /// The projection in the binary.
    HashedEmbedder();

    std::string name() const override;
    std::size_t dimensions() const override { return dimensions_; }
    base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override;
    std::vector<float> embed_one(std::string_view text) const;

private:
    std::uint32_t rows_ = 0;
    std::uint32_t dimensions_ = 0;
    std::span<const std::byte> scales_;  // [rows] float
    std::span<const std::byte> values_;  // [rows, dimensions] int8
    std::uint32_t checksum_ = 0;
};

/// A model's vectors and the hashed ones, one behind the other: a cosine is the mean of both. Words that a model takes
/// for one ("Kelvin", "Celsius") and questions that hashing takes for two must then fool both. Not thread-safe.
class BlendedEmbedder final : public Embedder {
public:
    /// Both must outlive it.
    BlendedEmbedder(Embedder& model, const HashedEmbedder& hashed) : model_(model), hashed_(hashed) {}
    std::string name() const override { return model_.name() + "+" + hashed_.name(); }
    std::size_t dimensions() const override { return model_.dimensions() + hashed_.dimensions(); }
    base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override;

private:
    Embedder& model_;
    const HashedEmbedder& hashed_;
};

/// In place of a model that is asked elsewhere: makes no vectors, and names those that lookups are given, which are
/// blended() of the model's and the hashed ones. Thread-safe.
class GivenVectors final : public Embedder {
public:
    GivenVectors(std::string model, const HashedEmbedder& hashed)
        : name_("served-" + std::move(model) + "+" + hashed.name()) {}
    std::string name() const override { return name_; }
    std::size_t dimensions() const override { return 0; }
    base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override;

private:
    std::string name_;
};

/// A model's vector and the hashed one of the same text, of length 1 each, as BlendedEmbedder puts them together.
std::vector<float> blended(std::vector<float> model, std::span<const float> hashed);
/// What of a blended vector of so many numbers the hashed one alone says: its product with such a vector is the cosine
/// of the hashed ones. Empty: such vectors have no hashed one.
std::vector<float> hashed_part(std::span<const float> hashed, std::size_t dimensions);

/// Scales to length 1; the zero vector stays.
void normalise(std::span<float> vector);

}  // namespace caching
