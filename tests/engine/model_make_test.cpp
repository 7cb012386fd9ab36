#include "cli/model_make.h"

#include <fstream>
#include <set>
#include <string>

#include "engine/model/checkpoint.h"
#include "engine/model/model_config.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

using test_engine::run_step;
using test_engine::Stream;

TEST_CASE("every named shape has the size that its name says", "[cli][model_make]") {
    const auto millions = [](const char* name) {
        return static_cast<double>(cli::named_shape(name)->parameters()) / 1e6;
    };
    REQUIRE(millions("stories15m") == Approx(15.2).epsilon(0.02));
    REQUIRE(millions("110m") == Approx(110).epsilon(0.02));
    REQUIRE(millions("tinyllama-1.1b") == Approx(1100).epsilon(0.02));
    REQUIRE(millions("llama-3.2-1b") == Approx(1236).epsilon(0.02));
    REQUIRE(millions("llama-3.1-8b") == Approx(8030).epsilon(0.01));
    REQUIRE(millions("qwen3-0.6b") == Approx(596).epsilon(0.02));
    REQUIRE(millions("kv-8b") == Approx(225).epsilon(0.02));
    REQUIRE(cli::named_shape("kv-8b")->kv_elements_per_token() ==
            cli::named_shape("llama-3.1-8b")->kv_elements_per_token());
    REQUIRE_FALSE(cli::named_shape("gpt-5"));
}

TEST_CASE("a made model loads and generates the same tokens each time, and others from another seed",
          "[cli][model_make]") {
    const test_engine::TemporaryFolder folder;
    const auto generate = [&](const std::string& name, std::uint64_t seed) {
        cli::ModelMakeOptions make{.shape = "stories15m", .out_dir = folder.file(name), .dtype = "bf16"};
        make.seed = seed;
        make.layers = 4;
        make.shard_bytes = 8u << 20;
        REQUIRE(cli::make_model(make));
        REQUIRE(engine::read_model_config(make.out_dir)->layers == 4);
        auto options = test_engine::options_for(make.out_dir, folder.file("packed"));
        const auto engine = test_engine::load(options);
        Stream stream;
        stream.prompt = {1, 80, 81, 82};
        stream.blocks = test_engine::block_run(0, 2);
        for (int i = 0; i < 20; ++i) {
            const auto left = static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed;
            REQUIRE(run_step(*engine, {{&stream, left}}, false));
        }
        return stream.generated;
    };
    const auto tokens = generate("a", 1);
    CAPTURE(tokens);
    REQUIRE(std::set<base::TokenId>(tokens.begin(), tokens.end()).size() > 5);  // neither stuck nor flat
    REQUIRE(generate("b", 1) == tokens);
    REQUIRE(generate("c", 2) != tokens);
    REQUIRE(std::filesystem::exists(folder.path() / "a" / "model.safetensors.index.json"));
}

TEST_CASE("model make refuses what it does not know and folders that hold something", "[cli][model_make]") {
    const test_engine::TemporaryFolder folder;
    cli::ModelMakeOptions make{.shape = "stories15m", .out_dir = folder.file("out"), .dtype = "bf16"};
    make.layers = 1;
    SECTION("a shape") {
        make.shape = "gpt-5";
        REQUIRE(cli::make_model(make).error().message.find("shape 'gpt-5'") != std::string::npos);
    }
    SECTION("a dtype") {
        make.dtype = "int3";
        REQUIRE(cli::make_model(make).error().message.find("dtype 'int3'") != std::string::npos);
    }
    SECTION("a folder") {
        std::filesystem::create_directory(make.out_dir);
        std::ofstream(make.out_dir + "/thesis.txt") << "precious";
        REQUIRE(cli::make_model(make).error().code == base::ErrorCode::failed_precondition);
        make.force = true;
        REQUIRE(cli::make_model(make));
        REQUIRE(std::filesystem::exists(make.out_dir + "/thesis.txt"));
    }
}
