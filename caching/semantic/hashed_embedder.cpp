#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "caching/semantic/embedder.h"
#include "caching/semantic/words.h"

// The assembler puts the file between two symbols (CMakeLists.txt names it): "SLUICEP1", rows, dimensions, one float a
// row, then the rows as int8.
asm(".section .rodata\n"
    ".balign 16\n"
    "sluice_caching_projection:\n"
    ".incbin \"" SLUICE_PROJECTION_FILE
    "\"\n"
    "sluice_caching_projection_end:\n"
    ".previous\n");
extern "C" const std::byte sluice_caching_projection[] __attribute__((visibility("hidden")));
extern "C" const std::byte sluice_caching_projection_end[] __attribute__((visibility("hidden")));

namespace caching {

void normalise(std::span<float> vector) {
    double squares = 0;
    for (const float value : vector) {
        squares += static_cast<double>(value) * static_cast<double>(value);
    }
    if (squares <= 0) { return; }
    const auto scale = static_cast<float>(1.0 / std::sqrt(squares));
    for (float& value : vector) {
        value *= scale;
    }
}

HashedEmbedder::HashedEmbedder() {
    const std::span<const std::byte> file(sluice_caching_projection, sluice_caching_projection_end);
    constexpr std::size_t kHeader = 16;
    CHECK(file.size() > kHeader && std::memcmp(file.data(), "SLUICEP1", 8) == 0);
    std::memcpy(&rows_, file.data() + 8, sizeof(rows_));
    std::memcpy(&dimensions_, file.data() + 12, sizeof(dimensions_));
    const std::size_t scales_bytes = rows_ * sizeof(float);
    CHECK(file.size() == kHeader + scales_bytes + std::size_t{rows_} * dimensions_);
    scales_ = file.subspan(kHeader, scales_bytes);
    values_ = file.subspan(kHeader + scales_bytes);
    checksum_ = base::crc32c(file);
}

std::string HashedEmbedder::name() const {
    return "hashed-" + std::to_string(dimensions_) + "-" + std::to_string(checksum_);
}

std::vector<float> HashedEmbedder::embed_one(std::string_view text) const {
    std::vector<float> sum(dimensions_, 0.0F);
    for (const Feature& feature : features_of(text)) {
        const std::size_t row = feature.hash % rows_;
        float scale = 0;
        std::memcpy(&scale, scales_.data() + row * sizeof(float), sizeof(scale));
        scale *= feature.weight;
        const auto* values = reinterpret_cast<const std::int8_t*>(values_.data() + row * dimensions_);
        for (std::size_t i = 0; i < sum.size(); ++i) {
            sum[i] += scale * static_cast<float>(values[i]);
        }
    }
    normalise(sum);
    return sum;
}

base::Result<std::vector<std::vector<float>>> HashedEmbedder::embed(std::span<const std::string> texts) {
    std::vector<std::vector<float>> vectors;
    vectors.reserve(texts.size());
    for (const std::string& text : texts) {
        vectors.push_back(embed_one(text));
    }
    return vectors;
}

base::Result<std::vector<std::vector<float>>> BlendedEmbedder::embed(std::span<const std::string> texts) {
    auto vectors = model_.embed(texts);
    if (!vectors) { return vectors; }
    for (std::size_t i = 0; i < vectors->size(); ++i) {
        (*vectors)[i] = blended(std::move((*vectors)[i]), hashed_.embed_one(texts[i]));
    }
    return vectors;
}

base::Result<std::vector<std::vector<float>>> GivenVectors::embed(std::span<const std::string> /*texts*/) {
    return base::fail(base::ErrorCode::unavailable, "the encoder " + name_ + " gave no vector for the question");
}

std::vector<float> blended(std::vector<float> model, std::span<const float> hashed) {
    normalise(model);
    model.insert(model.end(), hashed.begin(), hashed.end());
    normalise(model);
    return model;
}

std::vector<float> hashed_part(std::span<const float> hashed, std::size_t dimensions) {
    if (dimensions < hashed.size()) { return {}; }
    const bool is_whole = dimensions == hashed.size();
    std::vector<float> part(dimensions - hashed.size(), 0.0F);
    for (const float value : hashed) {
        part.push_back(is_whole ? value : value * std::sqrt(2.0F));  // it counts for half of a blended vector
    }
    return part;
}

}  // namespace caching
