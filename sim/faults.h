#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace sim {

/// Something that goes wrong for a while.
struct Fault {
    enum class Kind {
        death,      // the process ends; after `duration_s` (0: never) another life of it begins, empty
        slow,       // steps take `factor` times as long
        partition,  // nothing reaches the worker and nothing leaves it; what was on its way waits, as TCP has it
        slow_link,  // hand-offs from and to it take `factor` times as long
        // Of the scheduler that leads, beside which one stands by. `target` says nothing.
        scheduler_death,  // ends without a word; after `duration_s` (0: never) another one begins, and stands by
        scheduler_pause,  // stands still
    };
    double at_s = 0;
    Kind kind = Kind::death;
    std::string target;     // "decode-3": the fourth worker of that role, over all pools; "any": drawn by the seed
    double duration_s = 0;  // 0: until the end
    double factor = 4;      // of slow and slow_link
    bool operator==(const Fault&) const = default;
};

std::string_view fault_name(Fault::Kind kind);
inline bool is_of_scheduler(Fault::Kind kind) {
    return kind == Fault::Kind::scheduler_death || kind == Fault::Kind::scheduler_pause;
}

/// A YAML list of maps with `time` (seconds from the first arrival), `kind`, `target`, `duration`, `factor`.
/// Error: invalid_argument with the number of the entry. `name` for messages.
base::Result<std::vector<Fault>> read_faults(std::string_view yaml, const std::string& name);

}  // namespace sim
