#pragma once

#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

namespace test_support {

/// The file of the default model, fetched at its first use into the store of the tests: $SLUICE_TEST_MODELS, else
/// test-models in the build folder. Empty where it cannot be had: then the test has been told to be skipped, and
/// returns.
inline std::optional<std::string> real_model() {
    namespace fs = std::filesystem;
    const char* given = std::getenv("SLUICE_TEST_MODELS");
    const std::string store = given != nullptr ? given : SLUICE_TEST_MODELS_FOLDER;
    const std::string file = store + "/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (fs::exists(file)) { return file; }
    const std::string pull = "SLUICE_MODELS='" + store +
                             "' '" SLUICE_TEST_BINARY "' model pull smollm2-135m-instruct >/dev/null 2>'" + store +
                             ".log'";
    std::error_code ignored;
    fs::create_directories(fs::path(store).parent_path(), ignored);
    const int status = std::system(pull.c_str());
    if (status == 0 && fs::exists(file)) { return file; }
    std::cout << "SKIPPED: smollm2-135m-instruct cannot be had, see " << store << ".log\n";
    return std::nullopt;
}

}  // namespace test_support
