#include <cstring>
#include <random>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

std::vector<std::byte> valid_file() {
    const std::string header =
        R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16",)"
        R"("shape":[4],"data_offsets":[24,32]},"c":{"dtype":"F16","shape":[],"data_offsets":[32,34]}})";
    std::vector<std::byte> file(8 + header.size() + 34);
    const std::uint64_t length = header.size();
    std::memcpy(file.data(), &length, 8);
    std::memcpy(file.data() + 8, header.data(), header.size());
    return file;
}

/// Some bytes changed, cut out, doubled or moved; digits and brackets more often than chance would.
std::vector<std::byte> mutate(std::vector<std::byte> file, std::mt19937& random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    const std::string alphabet = "0123456789[]{},:\"-.eEFB ";
    for (std::size_t changes = 1 + below(4); changes > 0 && !file.empty(); --changes) {
        const std::size_t at = below(file.size());
        switch (below(6)) {
            case 0:
                file[at] = static_cast<std::byte>(random());
                break;
            case 1:
            case 2:
                file[at] = static_cast<std::byte>(alphabet[below(alphabet.size())]);
                break;
            case 3:
                file.resize(at);
                break;
            case 4:
                file.insert(file.begin() + static_cast<std::ptrdiff_t>(at),
                            static_cast<std::byte>(alphabet[below(alphabet.size())]));
                break;
            default:
                file[below(std::min<std::size_t>(8, file.size()))] = static_cast<std::byte>(random());
                break;
        }
    }
    return file;
}

}  // namespace

TEST_CASE("a mutated safetensors file is refused or stays inside itself", "[engine][fuzz]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::vector<std::byte> original = valid_file();
    int accepted = 0;
    for (int i = 0; i < 2000; ++i) {
        const std::vector<std::byte> file =
            mutate(original, random);  // of exact size: a sanitizer sees one byte too far
        const auto tensors = engine::parse_safetensors(file, "x");
        if (!tensors) { continue; }
        ++accepted;
        std::size_t bytes = 0;
        for (const auto& [name, tensor] : *tensors) {
            if (!tensor.bytes.empty()) {
                REQUIRE(tensor.bytes.data() >= file.data());
                REQUIRE(tensor.bytes.data() + tensor.bytes.size() <= file.data() + file.size());
            }
            bytes += tensor.bytes.size();
        }
        REQUIRE(bytes <= file.size());
    }
    REQUIRE(accepted < 2000);
}

TEST_CASE("a mutated config.json is refused or gives a shape within the bounds", "[engine][fuzz]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(20)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::string text =
        R"({"architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":112,"num_hidden_layers":2,)"
        R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":256,"max_position_embeddings":512,)"
        R"("rms_norm_eps":1e-05,"rope_scaling":{"rope_type":"linear","factor":2.0},"hidden_act":"silu"})";
    std::vector<std::byte> original(text.size());
    std::memcpy(original.data(), text.data(), text.size());
    for (int i = 0; i < 1000; ++i) {
        const std::vector<std::byte> file = mutate(original, random);
        const auto shape = engine::parse_model_config({reinterpret_cast<const char*>(file.data()), file.size()});
        if (!shape) { continue; }
        REQUIRE(shape->layers >= 1);
        REQUIRE(shape->heads_q % shape->heads_kv == 0);
        REQUIRE(shape->head_dim >= 2);
        REQUIRE(shape->head_dim % 2 == 0);
    }
}
