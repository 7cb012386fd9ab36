#pragma once

#include <string>
#include <vector>

#include "kv_transfer/rate/rate_controller.h"

namespace kv_transfer {

/// A codec at a level, and what is believed of it before anything was measured.
struct KnownWay {
    std::string codec;  // "raw" or a codec's name
    std::uint32_t level = 0;
    WayToSend way;
};

/// raw, exact and the levels of sluice, from no loss to most, as measured with one core (docs/decisions/0028): bits of
/// a BF16 value and GB/s of BF16 KV. What the controller chooses from.
std::vector<KnownWay> controller_ways();
/// Those and the other codecs, for comparisons.
std::vector<KnownWay> all_ways();

}  // namespace kv_transfer
