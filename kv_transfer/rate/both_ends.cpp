#include "kv_transfer/rate/both_ends.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace kv_transfer {
namespace {

constexpr double kTimeUsed = 0.9;  // of the time left: what is expected is not what comes

}  // namespace

Meeting meeting_of(std::uint32_t begin, std::uint32_t end, const BlockSeconds& computing, const BlockSeconds& loading) {
    CHECK(begin <= end, begin << " to " << end);
    const auto seconds_at = [&](std::uint32_t block) {
        const double computed = block > begin ? computing(begin, block) : 0;
        const double loaded = block < end ? loading(block, end) : 0;
        return std::pair{computed, loaded};
    };
    // The first block up to which computing takes at least as long as loading the rest.
    std::uint32_t low = begin;
    std::uint32_t high = end;
    while (low < high) {
        const std::uint32_t middle = low + (high - low) / 2;
        const auto [computed, loaded] = seconds_at(middle);
        if (computed >= loaded) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    const auto best_at = [&](std::uint32_t block) {
        const auto [computed, loaded] = seconds_at(block);
        return Meeting{block, std::max(computed, loaded)};
    };
    const Meeting here = best_at(low);
    if (low == begin) { return here; }
    const Meeting before = best_at(low - 1);
    return before.seconds <= here.seconds ? before : here;
}

bool loads_in_time(double load_seconds, std::optional<double> left_seconds) {
    return left_seconds && load_seconds <= *left_seconds * kTimeUsed;
}

KvWay choose_kv_way(const KvWaySeconds& seconds, std::optional<double> left_seconds) {
    if (loads_in_time(seconds.load, left_seconds)) { return KvWay::load; }
    const double alone = std::min(seconds.load, seconds.compute);
    if (seconds.both <= alone * (1 - kBothSave)) { return KvWay::both; }
    return seconds.load < seconds.compute ? KvWay::load : KvWay::compute;
}

}  // namespace kv_transfer
