#include "engine/model/weight_upload.h"

#include <cstring>
#include <string>
#include <vector>

#include "engine/kernels/float_formats.h"
#include "engine/model/weight_rows.h"
#include "tests/engine/support.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

using engine::PackedItem;
using engine::WeightFormat;
using engine::WeightOrder;

namespace {

float element(const engine::Tensor& tensor, std::size_t index) {
    if (tensor.dtype == "F32") {
        float value = 0;
        std::memcpy(&value, tensor.bytes.data() + index * 4, 4);
        return value;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, tensor.bytes.data() + index * 2, 2);
    return tensor.dtype == "F16" ? engine::float_from_f16(bits) : engine::float_from_bf16(bits);
}

}  // namespace

TEST_CASE("uploaded weights are the checkpoint's, stacked row by row", "[engine]") {
    const std::string dtype = GENERATE("BF16", "F16", "F32");
    CAPTURE(dtype);
    const test_engine::TemporaryFolder folder;
    const base::ModelShape shape = test_engine::small_shape();
    test_engine::write_random_model(folder.path().string(), shape, dtype);
    const auto checkpoint = engine::Checkpoint::open(folder.path().string());
    REQUIRE(checkpoint);
    const auto plan = engine::plan_packing(shape, WeightFormat::bf16, WeightOrder::row_major);
    REQUIRE(engine::check_tensors(*checkpoint, plan));

    test_device::DistantDevice device;
    std::uint64_t last = 0;
    const auto uploaded =
        engine::upload_weights(*checkpoint, plan, device, {}, [&](std::uint64_t done, std::uint64_t total) {
            REQUIRE(done >= last);
            REQUIRE(done <= total);
            last = done;
        });
    REQUIRE(uploaded);
    REQUIRE(last == plan.file_bytes);
    REQUIRE(uploaded->size() == plan.file_bytes);
    for (const PackedItem& item : plan.items) {
        CAPTURE(item.name);
        const std::byte* at = uploaded->data() + item.offset;
        bool same = true;
        for (const auto& source : item.sources) {
            const engine::Tensor& tensor = *checkpoint->find(source.tensor);
            const std::size_t elements = std::size_t{source.outputs} * (item.inputs == 0 ? 1 : item.inputs);
            for (std::size_t i = 0; i < elements; ++i) {
                const float value = element(tensor, i);
                if (item.inputs == 0) {
                    same = same && std::memcmp(at, &value, 4) == 0;
                    at += 4;
                } else {
                    const std::uint16_t bits = engine::bf16_from_float(value);
                    same = same && std::memcmp(at, &bits, 2) == 0;
                    at += 2;
                }
            }
        }
        REQUIRE(same);
    }
}

TEST_CASE("matrices of the layers are rounded on the device where FP8 is asked for", "[engine]") {
    const test_engine::TemporaryFolder folder;
    base::ModelShape shape = test_engine::small_shape();
    shape.layers = 1;
    shape.hidden = 1024;
    shape.intermediate = 4352;  // gate_up is uploaded in two pieces
    test_engine::write_random_model(folder.path().string(), shape, "BF16");
    const auto checkpoint = engine::Checkpoint::open(folder.path().string());
    REQUIRE(checkpoint);
    const auto plan = engine::plan_packing(shape, WeightFormat::fp8, WeightOrder::row_major);
    REQUIRE(engine::check_fp8_widths(plan));
    REQUIRE(engine::check_tensors(*checkpoint, plan));

    // Stands for the GPU's: shows which rows it was given, and where it was told to leave what it makes of them.
    const auto quantize = [](const std::byte* rows, std::uint32_t count, std::uint32_t width, std::byte* out,
                             float* scales, device::Stream&) -> base::Result<void> {
        for (std::size_t row = 0; row < count; ++row) {
            std::uint16_t first = 0;
            std::memcpy(&first, rows + row * width * 2, 2);
            scales[row] = engine::float_from_bf16(first);
            for (std::size_t i = 0; i < width; ++i) {
                out[row * width + i] = rows[(row * width + i) * 2];
            }
        }
        return {};
    };
    test_device::DistantDevice device;
    const auto uploaded = engine::upload_weights(*checkpoint, plan, device, quantize, {});
    REQUIRE(uploaded);
    const engine::Weights weights = engine::bind_weights(shape, plan, uploaded->data());
    REQUIRE(weights.embedding.format == WeightFormat::bf16);
    REQUIRE(weights.head.format == WeightFormat::bf16);
    REQUIRE(weights.head.scales == nullptr);
    const engine::PackedMatrix& gate_up = weights.layers[0].gate_up;
    REQUIRE(gate_up.format == WeightFormat::fp8);
    REQUIRE(gate_up.outputs == 2 * shape.intermediate);
    std::size_t wrong = 0;
    std::size_t row = 0;
    for (const char* name : {"gate_proj", "up_proj"}) {
        const engine::Tensor& tensor = *checkpoint->find(std::string("model.layers.0.mlp.") + name + ".weight");
        for (std::size_t r = 0; r < shape.intermediate; ++r, ++row) {
            wrong += gate_up.scales[row] != element(tensor, r * shape.hidden) ? 1u : 0u;
            for (std::size_t i = 0; i < shape.hidden; ++i) {
                const std::size_t at = r * shape.hidden + i;
                wrong += gate_up.data[row * shape.hidden + i] != tensor.bytes[at * 2] ? 1u : 0u;
            }
        }
    }
    REQUIRE(wrong == 0);
    REQUIRE(plan.file_bytes < engine::plan_packing(shape, WeightFormat::bf16, WeightOrder::row_major).file_bytes);

    const auto failed = engine::upload_weights(
        *checkpoint, plan, device,
        [](auto&&...) -> base::Result<void> { return base::fail(base::ErrorCode::internal, "no rounding today"); }, {});
    REQUIRE_FALSE(failed);
    REQUIRE(failed.error().message.find("no rounding today") != std::string::npos);
}

TEST_CASE("a matrix that FP8 kernels cannot take is refused with its name", "[engine]") {
    const auto plan = engine::plan_packing(test_engine::small_shape(), WeightFormat::fp8, WeightOrder::row_major);
    const auto checked = engine::check_fp8_widths(plan);
    REQUIRE_FALSE(checked);
    REQUIRE(checked.error().message.find("layers.0.down has 100 inputs") != std::string::npos);
}

TEST_CASE("a device that fails while weights are uploaded is an error with the item", "[engine]") {
    const test_engine::TemporaryFolder folder;
    const base::ModelShape shape = test_engine::small_shape();
    test_engine::write_random_model(folder.path().string(), shape, "BF16");
    const auto checkpoint = engine::Checkpoint::open(folder.path().string());
    REQUIRE(checkpoint);
    test_device::DistantDevice device;
    device.is_broken = true;
    const auto uploaded = engine::upload_weights(
        *checkpoint, engine::plan_packing(shape, WeightFormat::bf16, WeightOrder::row_major), device, {}, {});
    REQUIRE_FALSE(uploaded);
    REQUIRE(uploaded.error().message.find("embedding") != std::string::npos);
}
