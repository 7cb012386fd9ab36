// Without libFuzzer: gives a target every file of a folder, and then, where SLUICE_TEST_SEEDS_TIMES says so (nightly
// runs), as many thousand mutations of them. Any compiler, any sanitizer; no coverage.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/support/seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
/// Targets may have one.
extern "C" [[gnu::weak]] int LLVMFuzzerInitialize(int* count, char*** arguments);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes mutate(Bytes bytes, const Bytes& other, std::mt19937& random) {
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % std::max<std::size_t>(n, 1)); };
    static const std::string alphabet = "0123456789[]{},:\"-.eE \r\n";
    for (std::size_t changes = 1 + below(4); changes > 0 && !bytes.empty(); --changes) {
        const auto at = static_cast<std::ptrdiff_t>(below(bytes.size()));
        switch (below(7)) {
            case 0:
                bytes[static_cast<std::size_t>(at)] ^= static_cast<std::uint8_t>(1u << below(8));
                break;
            case 1:
                bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(random());
                break;
            case 2:
                bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(alphabet[below(alphabet.size())]);
                break;
            case 3:
                bytes.resize(static_cast<std::size_t>(at));
                break;
            case 4:
                bytes.insert(bytes.begin() + at, static_cast<std::uint8_t>(alphabet[below(alphabet.size())]));
                break;
            case 5:
                bytes.erase(bytes.begin() + at, bytes.begin() + std::min(at + 1 + static_cast<std::ptrdiff_t>(below(8)),
                                                                         static_cast<std::ptrdiff_t>(bytes.size())));
                break;
            default:  // a piece of another seed
                if (!other.empty()) {
                    const auto from = static_cast<std::ptrdiff_t>(below(other.size()));
                    const auto count = std::min<std::ptrdiff_t>(1 + static_cast<std::ptrdiff_t>(below(64)),
                                                                static_cast<std::ptrdiff_t>(other.size()) - from);
                    bytes.insert(bytes.begin() + at, other.begin() + from, other.begin() + from + count);
                }
                break;
        }
    }
    return bytes;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) { return 2; }
    if (LLVMFuzzerInitialize != nullptr) { LLVMFuzzerInitialize(&count, &arguments); }
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(arguments[1])) {
        paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    std::vector<Bytes> seeds;
    for (const auto& path : paths) {
        std::ifstream file(path, std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        std::printf("%s\n", path.c_str());
        std::fflush(stdout);  // the last line names the seed that ended the process
        LLVMFuzzerTestOneInput(seeds.back().data(), seeds.back().size());
    }
    if (seeds.empty()) { return 1; }
    const unsigned times = test_support::seeds_times();
    for (unsigned seed = 0; times > 1 && seed < 1000 * times; ++seed) {
        std::mt19937 random{seed};
        const Bytes bytes = mutate(seeds[random() % seeds.size()], seeds[random() % seeds.size()], random);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    return 0;
}
