// The seeds of libFuzzer's target are whole models: from these it gets behind every check.
#include <filesystem>
#include <string>

#include "base/gguf_model.h"
#include "engine/model/gguf_checkpoint.h"

#include "tests/support/catch.h"

TEST_CASE("every seed of the GGUF corpus is a model", "[engine][fuzz]") {
    std::size_t seeds = 0;
    for (const auto& entry : std::filesystem::directory_iterator(std::string(SLUICE_SOURCE_DIR) + "/tests/fuzz/gguf")) {
        CAPTURE(entry.path().string());
        const auto model = base::GgufModel::open(entry.path());
        REQUIRE(model);
        const auto shape = engine::gguf_model_shape(*model);
        REQUIRE(shape);
        const auto tensors = engine::gguf_tensors(*model, *shape);
        REQUIRE(tensors);
        REQUIRE(tensors->size() == model->tensors().size());
        ++seeds;
    }
    REQUIRE(seeds >= 10);
}
