#include "base/huge_pages.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/support/catch.h"

TEST_CASE("a container on huge pages grows from small to large and keeps what it has", "[base][huge_pages]") {
    struct alignas(64) Line {
        std::uint64_t number = 0;
    };
    std::vector<Line, base::HugePageAllocator<Line>> lines;
    constexpr std::size_t kLines = 3 * base::kHugePageBytes / sizeof(Line) + 1;
    for (std::uint64_t i = 0; i < kLines; ++i) {
        lines.push_back({i});
        const std::size_t bytes = lines.capacity() * sizeof(Line);
        const std::size_t alignment = bytes >= base::kHugePageBytes ? base::kHugePageBytes : alignof(Line);
        REQUIRE(reinterpret_cast<std::uintptr_t>(lines.data()) % alignment == 0);
    }
    auto copy = lines;
    lines.clear();
    lines.shrink_to_fit();
    const std::uint64_t sum =
        std::accumulate(copy.begin(), copy.end(), std::uint64_t{0},
                        [](std::uint64_t total, const Line& line) { return total + line.number; });
    REQUIRE(sum == std::uint64_t{kLines} * (kLines - 1) / 2);
}
