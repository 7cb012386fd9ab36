#include "cli/heap_pages.h"

#include <array>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/catch.h"

namespace {

using Piece = std::array<char, 65536>;

struct Mapping {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
};

/// Of this process, those under which huge pages were asked for. Sanitizers have an allocator of their own.
[[maybe_unused]] std::vector<Mapping> huge_mappings() {
    std::vector<Mapping> found;
    Mapping last;
    std::ifstream smaps("/proc/self/smaps");
    for (std::string line; std::getline(smaps, line);) {
        Mapping read;
        if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &read.begin, &read.end) == 2) { last = read; }
        if (line.rfind("VmFlags:", 0) == 0 && line.find(" hg") != std::string::npos) { found.push_back(last); }
    }
    return found;
}

}  // namespace

TEST_CASE("what is taken from the heap lies where huge pages were asked for", "[cli]") {
#ifdef SLUICE_SANITIZED
    SUCCEED("another allocator stands in");
#else
    if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) { return; }
    cli::use_huge_pages(std::size_t{64} << 20);
    std::vector<std::unique_ptr<Piece>> pieces(800);  // 50 MiB
    for (auto& piece : pieces) {
        piece = std::make_unique<Piece>();
    }
    const std::vector<Mapping> mappings = huge_mappings();
    std::size_t inside = 0;
    for (const auto& piece : pieces) {
        const auto at = reinterpret_cast<std::uintptr_t>(piece.get());
        for (const Mapping& mapping : mappings) {
            inside += at >= mapping.begin && at < mapping.end ? 1 : 0;
        }
    }
    // Some may have been free before it, or lie before the first whole page.
    REQUIRE(inside > pieces.size() / 2);
#endif
}
