// Weights that are no numbers, or absurd: refused by file, tensor and element, whichever way they are read.
#include "engine/model/weight_check.h"

#include <array>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "engine/kernels/float_formats.h"
#include "engine/model/packed_file.h"
#include "engine/model/weight_upload.h"
#include "tests/engine/support.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

using engine::SourceFormat;
using engine::WeightFormat;
using engine::WeightOrder;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string encoded(float value, const std::string& dtype) {
    if (dtype == "F32") {
        std::string bytes(4, '\0');
        std::memcpy(bytes.data(), &value, 4);
        return bytes;
    }
    std::uint16_t bits = engine::bf16_from_float(value);
    if (dtype == "F16") { bits = std::isnan(value) ? 0x7e01 : value > 0 ? 0x7c00 : 0xfc00; }
    std::string bytes(2, '\0');
    std::memcpy(bytes.data(), &bits, 2);
    return bytes;
}

/// A model of `dtype` with one element of one tensor changed.
struct Spoilt {
    test_engine::TemporaryFolder folder;
    base::ModelShape shape = test_engine::small_shape();
    std::string model = folder.file("model");

    Spoilt(const std::string& dtype, const std::string& tensor, std::size_t index, float value) {
        test_engine::write_random_model(model, shape, dtype);
        const std::string path = model + "/model.safetensors";
        std::uint64_t place = 0;
        {
            const auto file = base::MappedFile::open(path);
            REQUIRE(file);
            const auto tensors = engine::parse_safetensors(file->bytes(), path);
            REQUIRE(tensors);
            place = static_cast<std::uint64_t>(tensors->at(tensor).bytes.data() - file->bytes().data());
        }
        const std::string bytes = encoded(value, dtype);
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(static_cast<std::streamoff>(place + index * bytes.size()));
        file << bytes;
    }

    std::string refusal_of_packing() const {
        const auto checkpoint = engine::Checkpoint::open(model);
        REQUIRE(checkpoint);
        const auto packed = engine::open_packed_file(*checkpoint, engine::plan_packing(shape, WeightFormat::bf16),
                                                     folder.path().string(), {});
        REQUIRE_FALSE(packed);
        REQUIRE(packed.error().code == base::ErrorCode::data_loss);
        for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
            REQUIRE(entry.path().extension() != ".weights");
            REQUIRE(entry.path().extension() != ".partial");
        }
        return packed.error().message;
    }
    std::string refusal_of_upload() const {
        const auto checkpoint = engine::Checkpoint::open(model);
        REQUIRE(checkpoint);
        test_device::DistantDevice device;
        const auto uploaded = engine::upload_weights(
            *checkpoint, engine::plan_packing(shape, WeightFormat::bf16, WeightOrder::row_major), device, {}, {});
        REQUIRE_FALSE(uploaded);
        return uploaded.error().message;
    }
};

}  // namespace

TEST_CASE("every place of every format is looked at", "[engine]") {
    for (const std::size_t count : {1u, 5u, 1023u, 1024u, 1025u, 4000u}) {
        std::vector<float> f32(count, -1e8f);
        std::vector<std::uint16_t> bf16(count, engine::bf16_from_float(-9.9e7f));
        std::vector<std::uint16_t> f16(count, 0xfbff);  // -65504
        std::vector<std::uint8_t> fp8(count, 0xfe);     // -448
        const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
        REQUIRE_FALSE(engine::find_bad_weight(bytes(f32), SourceFormat::f32));
        REQUIRE_FALSE(engine::find_bad_weight(bytes(bf16), SourceFormat::bf16));
        REQUIRE_FALSE(engine::find_bad_weight(bytes(f16), SourceFormat::f16));
        REQUIRE_FALSE(engine::find_bad_fp8(bytes(fp8)));
        for (const std::size_t at : {std::size_t{0}, count / 2, count - 1}) {
            CAPTURE(count, at);
            for (const float bad : {kNan, -kNan, kInfinity, -kInfinity, 1.1e8f, -3e38f}) {
                const float good = f32[at];
                f32[at] = bad;
                REQUIRE(engine::find_bad_weight(bytes(f32), SourceFormat::f32) == at);
                f32[at] = good;
                const std::uint16_t good_half = bf16[at];
                bf16[at] = engine::bf16_from_float(bad);
                REQUIRE(engine::find_bad_weight(bytes(bf16), SourceFormat::bf16) == at);
                bf16[at] = good_half;
            }
            for (const int bad : {0x7c00, 0xfc00, 0x7e00, 0xffff}) {
                f16[at] = static_cast<std::uint16_t>(bad);
                REQUIRE(engine::find_bad_weight(bytes(f16), SourceFormat::f16) == at);
                f16[at] = 0xfbff;
            }
            for (const int bad : {0x7f, 0xff}) {
                fp8[at] = static_cast<std::uint8_t>(bad);
                REQUIRE(engine::find_bad_fp8(bytes(fp8)) == at);
                fp8[at] = 0xfe;
            }
        }
    }
}

TEST_CASE("a weight that is no number is refused by file, tensor and element, packed or uploaded", "[engine]") {
    const std::string dtype = GENERATE("F32", "F16", "BF16");
    const float value = std::array{kNan, kInfinity, -kInfinity}[GENERATE(range(std::size_t{0}, std::size_t{3}))];
    CAPTURE(dtype, value);
    const auto names = [&](const std::string& message, const std::string& tensor, const std::string& element) {
        CAPTURE(message);
        CHECK(message.find("model.safetensors") != std::string::npos);
        CHECK(message.find("tensor " + tensor + ": element " + element + " is " + std::to_string(value)) !=
              std::string::npos);
    };
    {
        // The second of two matrices that are stacked: [100, 64].
        const std::string tensor = "model.layers.1.mlp.up_proj.weight";
        const Spoilt spoilt(dtype, tensor, 99 * 64 + 63, value);
        names(spoilt.refusal_of_packing(), tensor, "[99, 63]");
        if (dtype != "F16") { names(spoilt.refusal_of_upload(), tensor, "[99, 63]"); }
    }
    {
        const Spoilt spoilt(dtype, "model.norm.weight", 5, value);
        names(spoilt.refusal_of_packing(), "model.norm.weight", "[5]");
        names(spoilt.refusal_of_upload(), "model.norm.weight", "[5]");
    }
    const Spoilt spoilt(dtype, "model.embed_tokens.weight", 0, value);
    names(spoilt.refusal_of_packing(), "model.embed_tokens.weight", "[0, 0]");
}

TEST_CASE("a weight beyond every known one is refused like one that is no number", "[engine]") {
    const Spoilt spoilt("F32", "model.layers.0.self_attn.k_proj.weight", 64 + 3, -2e9f);
    CHECK(spoilt.refusal_of_packing().find(
              "tensor model.layers.0.self_attn.k_proj.weight: element [1, 3] is -2000000000") != std::string::npos);
}
