#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "base/result.h"
#include "caching/in_context/options.h"

namespace gateway {

struct ServedModel;

/// Section `caching.in_context`: a name that two models answer to, the small one with examples (docs/caching.md). Off,
/// nothing of it is made.
struct InContextSettings {
    bool enabled = false;
    std::string name = "auto";  // that clients ask for
    std::string small;          // served names
    std::string large;
    std::size_t large_sequences = 8;   // that the large model's workers answer at a time: their load is then 1
    std::size_t comparisons_max = 2;   // at a time
    std::size_t tasks_max = 256;       // answers that wait to be learnt from; more are passed over
    std::size_t replays_per_hour = 0;  // examples that the large model answers again while it has little to do; 0: none
    base::Duration replay_idle = std::chrono::minutes(1);  // so long it has had little to do before
    double replay_temperature = 0.7;                       // of the new answers: at 0 they would be the old ones
    std::size_t replay_forms_max = 64;  // ways of asking (system prompt, form of the answer) that are kept for it
    bool stores = true;                 // examples are in caching.store_file, too, where there is one
    caching::InContextOptions learning = {};

    /// Bad values are reported by Config::finish().
    static InContextSettings read(base::Config& config);
};

/// Whether the models that it names are there and can be told apart. Error: invalid_argument, with what to do.
base::Result<void> check_in_context(const InContextSettings& settings, bool cache_is_on,
                                    const std::vector<ServedModel>& models);

}  // namespace gateway
