#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace gateway {

/// When the tokens of a request are due.
struct SloTargets {
    base::Duration ttft{};  // from the last byte of the request to its first token; 0: no target
    base::Duration tpot{};  // mean gap of the tokens after it; 0: no target
    base::Duration e2e{};   // to the end of its answer; 0: no target. Counted, but nothing is placed by it

    bool has_any() const {
        return ttft > base::Duration::zero() || tpot > base::Duration::zero() || e2e > base::Duration::zero();
    }
};

/// The aim of a class: the share of its requests that shall meet all their targets.
struct ClassAim {
    std::string slo_class;
    double attainment = 0;  // (0, 1]
};

/// What a client said of its targets, in the body field `slo` or in header fields. Absent: as its class says.
struct SloWish {
    std::optional<std::string> class_name = {};
    std::optional<base::Duration> ttft = {};
    std::optional<base::Duration> tpot = {};
    std::optional<base::Duration> e2e = {};
    std::optional<bool> lossy_kv = {};  // whether its KV may lose a little between workers
};

/// What one request is promised.
struct RequestSlo {
    std::string class_name = "default";
    std::size_t class_index = 0;  // of the gateway's SloClasses
    SloTargets targets;
    std::int32_t priority = 0;  // higher goes first where memory is short
    bool drops_late = false;    // no first token when that is due: the request ends with an error
    bool allow_lossy_kv = false;
};

}  // namespace gateway
