#include <random>
#include <vector>

#include "base/gguf.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_writer.h"

namespace {

std::vector<std::byte> valid_file() {
    return test_gguf::Writer()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .boolean("tokenizer.ggml.add_bos_token", false)
        .texts("tokenizer.ggml.tokens", {"<s>", "a", "", "b"})
        .i32s("tokenizer.ggml.token_type", {3, 1, 1, 1})
        .f32s("tokenizer.ggml.scores", {0, -1, -2, -3})
        .tensor("a", {32, 2}, 8, test_gguf::some_bytes(68))
        .tensor("b", {5}, 0, test_gguf::some_bytes(20))
        .tensor("c", {3}, 30, test_gguf::some_bytes(6))
        .bytes();
}

/// Some bytes changed, cut out or doubled, and whole numbers put in that are near a bound.
std::vector<std::byte> mutate(std::vector<std::byte> file, std::mt19937& random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    const std::uint64_t numbers[] = {0,
                                     1,
                                     2,
                                     7,
                                     8,
                                     9,
                                     12,
                                     13,
                                     31,
                                     32,
                                     33,
                                     255,
                                     1u << 16,
                                     0xffffffffu,
                                     std::uint64_t{1} << 60,
                                     ~std::uint64_t{0},
                                     file.size(),
                                     file.size() - 1};
    for (std::size_t changes = 1 + below(4); changes > 0 && file.size() > 16; --changes) {
        const std::size_t at = below(file.size() - 8);
        switch (below(6)) {
            case 0:
                file[at] = static_cast<std::byte>(random());
                break;
            case 1:
            case 2: {
                const std::uint64_t number = numbers[below(std::size(numbers))];
                std::memcpy(file.data() + at, &number, below(2) == 0 ? 4 : 8);
                break;
            }
            case 3:
                file.resize(at);
                break;
            case 4:
                file.insert(file.begin() + static_cast<std::ptrdiff_t>(at), static_cast<std::byte>(random()));
                break;
            default:
                file.erase(file.begin() + static_cast<std::ptrdiff_t>(at));
                break;
        }
    }
    return file;
}

}  // namespace

TEST_CASE("a mutated GGUF file is refused or stays inside itself", "[base][fuzz]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::vector<std::byte> original = valid_file();
    int accepted = 0;
    for (int i = 0; i < 3000; ++i) {
        const std::vector<std::byte> file =
            mutate(original, random);  // of exact size: a sanitizer sees one byte too far
        const auto inside = [&](std::span<const std::byte> bytes) {
            return bytes.data() >= file.data() && bytes.data() + bytes.size() <= file.data() + file.size();
        };
        const auto parsed = base::GgufFile::parse(file, "x");
        if (!parsed) { continue; }
        ++accepted;
        for (const auto& [key, value] : parsed->values) {
            REQUIRE(inside(value.bytes()));
            (void)value.shown();
            (void)value.number();
            (void)value.integers();
            for (const std::string_view text : value.strings().value_or(std::vector<std::string_view>())) {
                REQUIRE(inside(std::as_bytes(std::span(text))));
            }
        }
        std::size_t bytes = 0;
        for (const auto& [name, tensor] : parsed->tensors) {
            REQUIRE(inside(tensor.bytes));
            bytes += tensor.bytes.size();
        }
        REQUIRE(bytes <= file.size());
    }
    REQUIRE(accepted > 0);
    REQUIRE(accepted < 3000);
}
