// Checkpoints whose matrices are stored in FP8 with scales beside them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/kernels/float_formats.h"
#include "engine/kernels/weight_at.h"
#include "engine/model/checkpoint.h"
#include "engine/model/weight_upload.h"
#include "engine/model/weights.h"
#include "tests/engine/support.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

using engine::WeightFormat;
using engine::WeightOrder;

namespace {

struct Stored {
    std::string dtype;
    std::vector<std::uint64_t> shape;
    std::string bytes;
};
using StoredTensors = std::map<std::string, Stored>;

void write_model(const std::string& dir, const StoredTensors& tensors) {
    std::string header;
    std::string data;
    for (const auto& [name, tensor] : tensors) {
        std::string shape;
        for (const std::uint64_t length : tensor.shape) {
            shape += (shape.empty() ? "" : ",") + std::to_string(length);
        }
        header += (header.empty() ? "{" : ",") + ("\"" + name + "\":{\"dtype\":\"" + tensor.dtype) + "\",\"shape\":[" +
                  shape + "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                  std::to_string(data.size() + tensor.bytes.size()) + "]}";
        data += tensor.bytes;
    }
    header += "}";
    const std::uint64_t length = header.size();
    std::ofstream file(dir + "/model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), 8);
    file << header << data;
}

std::uint8_t e4m3_from_float(float value) {
    std::uint8_t nearest = 0;
    for (std::uint8_t bits = 1; bits < 0x7f; ++bits) {
        const float distance = std::abs(engine::float_from_e4m3(bits) - std::abs(value));
        if (distance < std::abs(engine::float_from_e4m3(nearest) - std::abs(value))) { nearest = bits; }
    }
    return static_cast<std::uint8_t>(nearest | (value < 0 ? 0x80 : 0));
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// What one scale is for.
enum class Scales { tensor, output, group };
constexpr std::size_t kGroupInputs = 32;

/// The random model of `shape` with its layers' matrices in FP8, and the same numbers as floats.
struct Twins {
    Twins(const base::ModelShape& shape, Scales of) {
        test_engine::write_random_model(rounded.path().string(), shape, "BF16");
        test_engine::write_random_model(floats.path().string(), shape, "BF16");
        const auto checkpoint = engine::Checkpoint::open(rounded.path().string());
        REQUIRE(checkpoint);
        StoredTensors as_floats;
        for (const engine::PackedItem& item : engine::plan_packing(shape, WeightFormat::f32).items) {
            for (const auto& source : item.sources) {
                const engine::Tensor& tensor = *checkpoint->find(source.tensor);
                const Stored stored{tensor.dtype,
                                    tensor.shape,
                                    {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()}};
                const bool is_rounded = item.inputs > 0 && item.name.find("layers.") == 0;
                if (!is_rounded) { as_fp8[source.tensor] = as_floats[source.tensor] = stored; }
                if (is_rounded) { round(source.tensor, stored, of, as_floats); }
            }
        }
        write_model(rounded.path().string(), as_fp8);
        write_model(floats.path().string(), as_floats);
    }

    void round(const std::string& name, const Stored& stored, Scales of, StoredTensors& as_floats) {
        const std::size_t outputs = stored.shape[0];
        const std::size_t inputs = stored.shape[1];
        const std::size_t groups = of == Scales::group ? inputs / kGroupInputs : 1;
        std::vector<std::uint16_t> scales(of == Scales::tensor ? 1 : outputs * groups);
        for (std::size_t i = 0; i < scales.size(); ++i) {  // bf16, as they are usually stored
            scales[i] = engine::bf16_from_float(0.001f * static_cast<float>(1 + i % 7));
        }
        std::vector<std::uint8_t> bytes(outputs * inputs);
        std::vector<float> values(bytes.size());
        for (std::size_t i = 0; i < bytes.size(); ++i) {
            std::uint16_t bits = 0;
            std::memcpy(&bits, stored.bytes.data() + 2 * i, 2);
            const std::size_t group = i % inputs / (inputs / groups);
            const float scale = engine::float_from_bf16(scales[of == Scales::tensor ? 0 : i / inputs * groups + group]);
            bytes[i] = e4m3_from_float(engine::float_from_bf16(bits) / scale);
            values[i] = engine::float_from_e4m3(bytes[i]) * scale;
        }
        const std::vector<std::uint64_t> lengths =
            of == Scales::tensor ? std::vector<std::uint64_t>{} : std::vector<std::uint64_t>{outputs, groups};
        as_fp8[name] = {"F8_E4M3", stored.shape, bytes_of(bytes)};
        as_fp8[name + "_scale"] = {"BF16", lengths, bytes_of(scales)};
        as_floats[name] = {"F32", stored.shape, bytes_of(values)};
    }

    test_engine::TemporaryFolder rounded;
    test_engine::TemporaryFolder floats;
    StoredTensors as_fp8;
};

std::vector<std::vector<float>> logits_of(const std::string& model, const std::string& kernels,
                                          const std::string& weight_format) {
    const test_engine::TemporaryFolder packed;
    auto options = test_engine::options_for(model, packed.path().string());
    options.kernels = kernels;
    options.weight_format = weight_format;
    const auto engine = test_engine::load(options);
    test_engine::Stream stream;
    std::mt19937 random{3};
    stream.prompt = test_engine::random_tokens(random, 20, 250);
    stream.blocks = test_engine::block_run(0, 3);
    REQUIRE(test_engine::run_step(*engine, {{&stream, 20}}));
    return stream.logits;
}

std::string refusal_of(const Twins& twins, const base::ModelShape& shape) {
    write_model(twins.rounded.path().string(), twins.as_fp8);
    const auto checkpoint = engine::Checkpoint::open(twins.rounded.path().string());
    REQUIRE(checkpoint);
    const auto checked = engine::check_tensors(*checkpoint, engine::plan_packing(shape, WeightFormat::f32));
    return checked ? "fine" : checked.error().message;
}

bool contains(const std::string& text, const std::string& part) {
    INFO(text);
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("every e4m3 is the float that its bits say", "[engine]") {
    for (unsigned bits = 0; bits < 256; ++bits) {
        const auto exponent = static_cast<int>(bits >> 3 & 15u);
        const auto fraction = static_cast<float>(bits & 7u);
        const float value = engine::float_from_e4m3(static_cast<std::uint8_t>(bits));
        CAPTURE(bits, value);
        if (exponent == 15 && fraction == 7) {
            REQUIRE(std::isnan(value));
            continue;
        }
        const float magnitude = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
        REQUIRE(std::abs(value) == magnitude);
        REQUIRE(std::signbit(value) == (bits >= 128));
    }
}

TEST_CASE("a checkpoint in FP8 gives the numbers of the floats that it stands for", "[engine]") {
    const auto of = GENERATE(Scales::tensor, Scales::output, Scales::group);
    CAPTURE(of);
    base::ModelShape shape = test_engine::small_shape();
    shape.intermediate = 96;
    const Twins twins(shape, of);
    for (const std::string& kernels : test_engine::families_here()) {
        for (const std::string weight_format : {"f32", "bf16"}) {
            CAPTURE(kernels, weight_format);
            const auto got = logits_of(twins.rounded.path().string(), kernels, weight_format);
            REQUIRE(got.size() == 20);
            REQUIRE(got == logits_of(twins.floats.path().string(), kernels, weight_format));
        }
    }
    const auto checkpoint = engine::Checkpoint::open(twins.rounded.path().string());
    REQUIRE(checkpoint);
    const auto plan = engine::plan_packing(shape, WeightFormat::f32);
    REQUIRE(engine::stored_format(*checkpoint, plan) == WeightFormat::bf16);
}

TEST_CASE("other scales are another model", "[engine]") {
    Twins twins(test_engine::small_shape(), Scales::output);
    const auto id = [&] {
        const test_engine::TemporaryFolder packed;
        return test_engine::load(test_engine::options_for(twins.rounded.path().string(), packed.path().string()))
            ->numerics_id();
    };
    const auto before = id();
    twins.as_fp8.at("model.layers.1.mlp.down_proj.weight_scale").bytes[0] ^= 1;
    write_model(twins.rounded.path().string(), twins.as_fp8);
    REQUIRE(id() != before);
}

TEST_CASE("FP8 without scales, or with such as we cannot read, is refused by name", "[engine]") {
    const base::ModelShape shape = test_engine::small_shape();
    Twins twins(shape, Scales::output);
    REQUIRE(refusal_of(twins, shape) == "fine");
    const std::string name = "model.layers.2.self_attn.k_proj.weight";
    SECTION("missing") {
        twins.as_fp8.erase(name + "_scale");
        REQUIRE(contains(refusal_of(twins, shape), "the checkpoint lacks " + name + "_scale"));
    }
    SECTION("one for each block") {
        Stored& scales = twins.as_fp8.at(name + "_scale");
        scales.shape = {2, 4};
        scales.bytes.resize(16);
        REQUIRE(contains(refusal_of(twins, shape), name + "_scale is BF16 [2, 4], only one number"));
    }
    SECTION("one for each group of too few inputs") {
        Stored& scales = twins.as_fp8.at(name + "_scale");
        scales.shape = {32, 8};
        scales.bytes.resize(2 * 32 * 8);
        REQUIRE(contains(refusal_of(twins, shape), name + "_scale is BF16 [32, 8], only one number"));
    }
    SECTION("of another kind") {
        Stored& scales = twins.as_fp8.at(name + "_scale");
        scales.dtype = "I16";
        REQUIRE(contains(refusal_of(twins, shape), name + "_scale is I16 [32, 1]"));
    }
    SECTION("a vector") {
        Stored& norm = twins.as_fp8.at("model.norm.weight");
        norm = {"F8_E4M3", {shape.hidden}, std::string(shape.hidden, '\x38')};
        REQUIRE(contains(refusal_of(twins, shape), "model.norm.weight is stored as F8_E4M3"));
    }
}

TEST_CASE("on a device matrices that are stored in FP8 are uploaded as they are", "[engine]") {
    const bool per_output = GENERATE(true, false);
    base::ModelShape shape = test_engine::small_shape();
    shape.intermediate = 96;
    Twins twins(shape, per_output ? Scales::output : Scales::tensor);
    // One of the three that make q, k and v is in bf16: this matrix is rounded anew.
    const std::string other = "model.layers.1.self_attn.v_proj.weight";
    twins.as_fp8.erase(other + "_scale");
    twins.as_fp8.at(other) = {"BF16", {32, 64}, std::string(32 * 64 * 2, '\0')};
    write_model(twins.rounded.path().string(), twins.as_fp8);
    const auto checkpoint = engine::Checkpoint::open(twins.rounded.path().string());
    REQUIRE(checkpoint);
    const auto plan = engine::plan_packing(shape, WeightFormat::fp8, WeightOrder::row_major);
    REQUIRE(engine::check_tensors(*checkpoint, plan));
    test_device::DistantDevice device;
    std::uint32_t rows_rounded = 0;
    const auto uploaded = engine::upload_weights(*checkpoint, plan, device,
                                                 [&](const std::byte*, std::uint32_t count, std::uint32_t, std::byte*,
                                                     float*, device::Stream&) -> base::Result<void> {
                                                     rows_rounded += count;
                                                     return {};
                                                 },
                                                 {});
    REQUIRE(uploaded);
    REQUIRE(rows_rounded == 128);  // 64 of q, 32 of k and of v
    const engine::Weights weights = engine::bind_weights(shape, plan, uploaded->data());
    const engine::PackedMatrix& gate_up = weights.layers[2].gate_up;
    std::string bytes;
    std::vector<float> scales;
    for (const char* name : {"gate_proj", "up_proj"}) {
        const std::string tensor = std::string("model.layers.2.mlp.") + name + ".weight";
        bytes += twins.as_fp8.at(tensor).bytes;
        const std::string& stored = twins.as_fp8.at(tensor + "_scale").bytes;
        for (std::size_t row = 0; row < shape.intermediate; ++row) {
            std::uint16_t bits = 0;
            std::memcpy(&bits, stored.data() + (per_output ? 2 * row : 0), 2);
            scales.push_back(engine::float_from_bf16(bits));
        }
    }
    REQUIRE(std::memcmp(gate_up.data, bytes.data(), bytes.size()) == 0);
    REQUIRE(std::vector<float>(gate_up.scales, gate_up.scales + gate_up.outputs) == scales);
}

TEST_CASE("scales of groups of inputs go to a device as they are, and a plain product over them is that of the floats",
          "[engine]") {
    base::ModelShape shape = test_engine::small_shape();
    shape.intermediate = 96;
    Twins twins(shape, Scales::group);
    write_model(twins.rounded.path().string(), twins.as_fp8);
    const auto checkpoint = engine::Checkpoint::open(twins.rounded.path().string());
    const auto floats = engine::Checkpoint::open(twins.floats.path().string());
    REQUIRE(checkpoint);
    REQUIRE(floats);
    const auto upload = [&](const engine::PackingPlan& plan, std::uint32_t& rows_rounded) {
        test_device::DistantDevice device;
        auto uploaded = engine::upload_weights(*checkpoint, plan, device,
                                               [&](const std::byte*, std::uint32_t count, std::uint32_t, std::byte*,
                                                   float*, device::Stream&) -> base::Result<void> {
                                                   rows_rounded += count;
                                                   return {};
                                               },
                                               {});
        REQUIRE(uploaded);
        return std::move(*uploaded);
    };
    // A plan with one scale per output cannot hold them: all matrices of the layers are rounded anew.
    std::uint32_t rounded = 0;
    static_cast<void>(upload(engine::plan_packing(shape, WeightFormat::fp8, WeightOrder::row_major), rounded));
    REQUIRE(rounded == shape.layers * (128 + 64 + 192 + 64));

    rounded = 0;
    const auto plan =
        engine::plan_packing(shape, WeightFormat::fp8, WeightOrder::row_major, {.group_inputs = kGroupInputs});
    REQUIRE(engine::check_fp8_widths(plan));
    const auto uploaded = upload(plan, rounded);
    REQUIRE(rounded == 0);
    const engine::Weights weights = engine::bind_weights(shape, plan, uploaded.data());
    const engine::PackedMatrix& down = weights.layers[1].down;
    REQUIRE(down.scale_shape.groups(down.inputs) == 3);
    const engine::Tensor& expected = *floats->find("model.layers.1.mlp.down_proj.weight");
    std::mt19937 random{5};
    std::normal_distribution<double> normal;
    std::vector<double> x(down.inputs);
    std::generate(x.begin(), x.end(), [&] { return normal(random); });
    for (std::size_t output = 0; output < down.outputs; ++output) {
        double sum = 0;
        double sum_expected = 0;
        for (std::size_t input = 0; input < down.inputs; ++input) {
            float weight = 0;
            std::memcpy(&weight, expected.bytes.data() + (output * down.inputs + input) * 4, 4);
            sum += x[input] * engine::weight_at(down, WeightOrder::row_major, output, input);
            sum_expected += x[input] * static_cast<double>(weight);
        }
        CAPTURE(output);
        REQUIRE(sum == Approx(sum_expected).epsilon(1e-5));
    }

    const auto refused = engine::check_fp8_widths(
        engine::plan_packing(shape, WeightFormat::fp8, WeightOrder::row_major, {.group_inputs = 48}));
    REQUIRE(contains(refused.error().message, "64 inputs, must be a multiple of 48"));
}
