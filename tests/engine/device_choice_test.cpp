#include "device/cuda/cuda_device.h"
#include "engine/engine.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

using base::ErrorCode;

namespace {

struct Setting {
    Setting() {
        test_engine::write_random_model(model.path().string(), test_engine::small_shape(), "BF16");
        options = test_engine::options_for(model.path().string(), packed.path().string());
    }
    base::Error refusal() const {
        const auto engine = engine::load_engine(options);
        REQUIRE_FALSE(engine);
        return engine.error();
    }

    test_engine::TemporaryFolder model;
    test_engine::TemporaryFolder packed;
    engine::EngineOptions options;
};

}  // namespace

TEST_CASE("a device and kernels that contradict each other are refused with both names", "[engine]") {
    Setting setting;
    setting.options.device = "host";
    setting.options.kernels = "cuda";
    REQUIRE(setting.refusal().code == ErrorCode::invalid_argument);
    setting.options.device = "cuda:0";
    setting.options.kernels = "reference";
    const base::Error refused = setting.refusal();
    REQUIRE(refused.code == ErrorCode::invalid_argument);
    REQUIRE(refused.message.find("reference") != std::string::npos);
    REQUIRE(refused.message.find("cuda:0") != std::string::npos);
    setting.options.device = "gpu";
    REQUIRE(setting.refusal().code == ErrorCode::invalid_argument);
}

TEST_CASE("CUDA refuses formats that its kernels do not have", "[engine]") {
    Setting setting;
    setting.options.device = "cuda:0";
    setting.options.kernels = "auto";
    setting.options.weight_format = "f32";
    REQUIRE(setting.refusal().message.find("weight_format") != std::string::npos);
    setting.options.weight_format = "auto";
    setting.options.kv_dtype = "f32";
    REQUIRE(setting.refusal().message.find("kv_dtype") != std::string::npos);
    setting.options.kv_dtype = "auto";
    setting.options.prefill_attention = "wgmma";
    setting.options.deterministic = true;
    REQUIRE(setting.refusal().message.find("deterministic to false") != std::string::npos);
}

TEST_CASE("a backend on the host chooses its formats after the settings and what is stored", "[engine]") {
    using engine::WeightFormat;
    using kv_cache::KvDtype;
    const auto formats = [](const std::string& weights, const std::string& kv, WeightFormat stored) {
        engine::BackendOptions options;
        options.family = "reference";
        options.weight_format = weights;
        options.kv_dtype = kv;
        const auto backend = engine::make_backend(options);
        REQUIRE(backend);
        const engine::ModelFormats chosen = (*backend)->choose_formats(stored);
        return std::pair(chosen.weights, chosen.kv);
    };
    REQUIRE(formats("auto", "auto", WeightFormat::bf16) == std::pair(WeightFormat::bf16, KvDtype::bf16));
    REQUIRE(formats("auto", "auto", WeightFormat::f32) == std::pair(WeightFormat::f32, KvDtype::f32));
    REQUIRE(formats("f32", "auto", WeightFormat::bf16) == std::pair(WeightFormat::f32, KvDtype::f32));
    REQUIRE(formats("bf16", "f32", WeightFormat::f32) == std::pair(WeightFormat::bf16, KvDtype::f32));
    REQUIRE(formats("f32", "bf16", WeightFormat::f32) == std::pair(WeightFormat::f32, KvDtype::bf16));

    engine::BackendOptions options;
    options.family = "reference";
    options.weight_format = "fp8";
    const auto refused = engine::make_backend(options);
    REQUIRE(refused.error().code == ErrorCode::unimplemented);
    REQUIRE(refused.error().message.find("which the reference kernels do not have") != std::string::npos);
}

TEST_CASE("a GPU that cannot be used is refused with what to do, and auto takes the host", "[engine]") {
    Setting setting;
    setting.options.kernels = "auto";
    const device::CudaReport report = device::cuda_report();
    if (!report.problem.empty()) {
        setting.options.device = "cuda:0";
        const ErrorCode code = setting.refusal().code;
        REQUIRE((code == ErrorCode::unavailable || code == ErrorCode::unimplemented));
        setting.options.device = "auto";
        setting.options.kernels = "cuda";
        const base::Error refused = setting.refusal();
        REQUIRE(refused.code == ErrorCode::unavailable);
        REQUIRE(refused.message.find(report.remedy) != std::string::npos);
    }
    setting.options.device = "auto";
    setting.options.kernels = "reference";  // kernels of the processor by name mean the host
    const auto engine = engine::load_engine(setting.options);
    REQUIRE(engine);
    REQUIRE((*engine)->kv_store().device().name() == "host");
}
