#include "kv_transfer/rate/known_ways.h"

#include <cstdint>

namespace kv_transfer {
namespace {

KnownWay make(const char* codec, std::uint32_t level, double bits, double encode, double decode, bool is_lossy) {
    return {
        codec, level, {.wire_share = bits / 16, .encode_rate = encode, .decode_rate = decode, .is_lossy = is_lossy}};
}

// Table of docs/decisions/0028-coded-kv.md (SmolLM2-135M; one core of a Zen 4).
KnownWay raw() {
    return {"raw", 0, {}};
}
KnownWay exact() {
    return make("exact", 0, 10.63, 1.7e9, 2.5e9, false);
}
std::vector<KnownWay> sluice() {
    constexpr double kBits[] = {7.61, 6.36, 5.26, 4.22, 3.20, 2.54, 2.00, 1.47};
    std::vector<KnownWay> ways;
    for (std::uint32_t level = 0; level < std::size(kBits); ++level) {
        ways.push_back(make("sluice", level, kBits[level], level < 4 ? 1.5e9 : 1.9e9, level < 4 ? 2.2e9 : 2.9e9, true));
    }
    return ways;
}

}  // namespace

std::vector<KnownWay> controller_ways() {
    std::vector<KnownWay> ways{raw(), exact()};
    for (KnownWay& way : sluice()) {
        ways.push_back(std::move(way));
    }
    return ways;
}

std::vector<KnownWay> all_ways() {
    std::vector<KnownWay> ways = controller_ways();
    ways.push_back(make("int8", 0, 8.25, 1.1e9, 6.4e9, true));
    ways.push_back(make("cachegen", 3, 3.52, 0.6e9, 0.9e9, true));
    ways.push_back(make("cachegen", 2, 2.69, 0.6e9, 0.9e9, true));
    ways.push_back(make("cachegen", 1, 2.20, 0.6e9, 0.9e9, true));
    return ways;
}

}  // namespace kv_transfer
