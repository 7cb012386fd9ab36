#include "cli/model/built_in.h"

#include <unistd.h>

#include <array>
#include <filesystem>

#include "cli/model/part_file.h"
#include "engine/model/packed_file.h"
#include "engine/model/read_file.h"

// The assembler puts each file between two symbols. SLUICE_MODELS_FOLDER is models/ of the sources (CMakeLists.txt).
#define SLUICE_BUILT_IN(symbol, path)                 \
    asm(".section .rodata\n"                          \
        ".global sluice_built_in_" #symbol            \
        "\n"                                          \
        "sluice_built_in_" #symbol                    \
        ":\n"                                         \
        ".incbin \"" SLUICE_MODELS_FOLDER "/" path    \
        "\"\n"                                        \
        ".global sluice_built_in_" #symbol            \
        "_end\n"                                      \
        "sluice_built_in_" #symbol                    \
        "_end:\n"                                     \
        ".previous\n");                               \
    extern "C" const char sluice_built_in_##symbol[]; \
    extern "C" const char sluice_built_in_##symbol##_end[]

SLUICE_BUILT_IN(catalogue, "catalogue.yaml");
SLUICE_BUILT_IN(config, "stories260k/config.json");
SLUICE_BUILT_IN(generation, "stories260k/generation_config.json");
SLUICE_BUILT_IN(weights, "stories260k/model.safetensors");
SLUICE_BUILT_IN(tokenizer, "stories260k/tokenizer.json");
SLUICE_BUILT_IN(tokenizer_config, "stories260k/tokenizer_config.json");
SLUICE_BUILT_IN(licence, "stories260k/LICENSE");

namespace cli::model {
namespace {

namespace fs = std::filesystem;

struct BuiltInFile {
    const char* name;
    std::string_view bytes;
};

#define SLUICE_BYTES(symbol)                   \
    std::string_view(sluice_built_in_##symbol, \
                     static_cast<std::size_t>(sluice_built_in_##symbol##_end - sluice_built_in_##symbol))

std::array<BuiltInFile, 6> built_in_files() {
    return {{{"config.json", SLUICE_BYTES(config)},
             {"generation_config.json", SLUICE_BYTES(generation)},
             {"model.safetensors", SLUICE_BYTES(weights)},
             {"tokenizer.json", SLUICE_BYTES(tokenizer)},
             {"tokenizer_config.json", SLUICE_BYTES(tokenizer_config)},
             {"LICENSE", SLUICE_BYTES(licence)}}};
}

}  // namespace

std::string_view built_in_catalogue() {
    return SLUICE_BYTES(catalogue);
}

base::Result<std::string> built_in_model_dir() {
    const auto cache = engine::prepare_packed_dir("");
    if (!cache) { return base::pass_on(cache); }
    const fs::path dir = fs::absolute(*cache) / kBuiltInModel;
    std::error_code error;
    fs::create_directory(dir, error);
    if (error) { return tl::unexpected(engine::system_error("make the folder", dir, error.value())); }
    for (const BuiltInFile& file : built_in_files()) {
        const auto there = engine::read_file(dir / file.name, file.bytes.size());
        if (there && *there == file.bytes) { continue; }
        // A name of this process: another one that does the same writes the same bytes.
        const fs::path part = dir / (std::string(file.name) + "." + std::to_string(::getpid()));
        if (const auto written = write_small(part, file.bytes); !written) { return base::pass_on(written); }
        if (const auto done = rename_durably(part, dir / file.name); !done) { return base::pass_on(done); }
    }
    return dir.string();
}

}  // namespace cli::model
