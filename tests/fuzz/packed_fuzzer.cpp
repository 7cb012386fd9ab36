// Packed files: the input lies over the file that an engine has packed, and whatever it does to it, the engine of the
// next start maps what was packed. The first two bytes say where the input begins (in 16 bytes), the third what follows
// it: the rest of the file, or nothing.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/log.h"
#include "engine/model/checkpoint.h"
#include "engine/model/packed_file.h"

namespace {

namespace fs = std::filesystem;

/// A model of one layer and the file that was packed of it.
struct World {
    fs::path folder;
    engine::PackingPlan plan;
    std::optional<engine::Checkpoint> checkpoint;
    std::string path;
    std::vector<char> good;

    World() {
        spdlog::set_level(spdlog::level::off);
        std::string pattern = fs::exists("/dev/shm") ? "/dev/shm/sluice-fuzz-XXXXXX" : "/tmp/sluice-fuzz-XXXXXX";
        folder = ::mkdtemp(pattern.data());
        fs::create_directory(folder / "packed");
        base::ModelShape shape;
        shape.architecture = "LlamaForCausalLM";
        shape.layers = 1;
        shape.hidden = shape.intermediate = 4;
        shape.heads_q = shape.heads_kv = 2;
        shape.head_dim = 2;
        shape.vocabulary = 8;
        shape.tied_embeddings = true;
        plan = engine::plan_packing(shape, engine::WeightFormat::f32);
        std::string header;
        std::string values;
        for (const engine::PackedItem& item : plan.items) {
            for (const auto& source : item.sources) {
                const std::size_t begin = values.size();
                values.append(std::size_t{source.outputs} * std::max(item.inputs, 1u) * 4, '\x3d');
                header += (header.empty() ? "{\"" : ",\"") + source.tensor + "\":{\"dtype\":\"F32\",\"shape\":[" +
                          std::to_string(source.outputs) + (item.inputs > 0 ? "," + std::to_string(item.inputs) : "") +
                          "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(values.size()) + "]}";
            }
        }
        header += "}";
        const std::uint64_t length = header.size();
        std::ofstream file(folder / "model.safetensors", std::ios::binary);
        file.write(reinterpret_cast<const char*>(&length), sizeof length);
        file << header << values;
        file.close();
        auto opened = engine::Checkpoint::open(folder);
        if (!opened) { std::abort(); }
        checkpoint.emplace(std::move(*opened));
        const auto packed = open();
        path = packed.path;
        const auto bytes = packed.file.bytes();
        good.assign(reinterpret_cast<const char*>(bytes.data()),
                    reinterpret_cast<const char*>(bytes.data()) + bytes.size());
    }
    ~World() {
        std::error_code ignored;
        fs::remove_all(folder, ignored);
    }
    engine::PackedFile open() const {
        auto packed = engine::open_packed_file(*checkpoint, plan, (folder / "packed").string(), {});
        if (!packed) { std::abort(); }
        return std::move(*packed);
    }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const World world;
    if (size < 3) { return 0; }
    std::vector<char> bytes = world.good;
    const std::size_t begin = std::size_t{data[0]} * 256 * 16 % bytes.size() / 16 * 16 + data[1] * std::size_t{16};
    const std::span<const std::uint8_t> input(data + 3, size - 3);
    if (bytes.size() < begin + input.size()) { bytes.resize(begin + input.size()); }
    std::memcpy(bytes.data() + begin, input.data(), input.size());
    if (data[2] % 2 == 1) { bytes.resize(begin + input.size()); }
    fs::remove(world.path);
    std::ofstream(world.path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const auto packed = world.open();
    const auto mapped = packed.file.bytes();
    // The header's page and what is between the parts are not looked at by anybody.
    for (const engine::PackedItem& item : world.plan.items) {
        if (mapped.size() < item.offset + item.bytes ||
            std::memcmp(mapped.data() + item.offset, world.good.data() + item.offset, item.bytes) != 0) {
            std::abort();
        }
    }
    return 0;
}
