#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "net/transport.h"

namespace net {

enum class FaultKind {
    drop,       // the message vanishes; the send succeeds
    delay,      // it leaves later
    corrupt,    // one bit of payload or header is flipped
    reorder,    // it leaves after the next message (or after `delay`)
    duplicate,  // it leaves twice
    cut,        // the connection is closed by force
};

/// When a fault strikes. Applies to messages of `message_kind` (all when empty); of those to the `nth` (1 = first;
/// once) and to each with `probability`.
struct FaultRule {
    FaultKind fault{};
    std::optional<MessageKind> message_kind = std::nullopt;
    std::uint64_t nth = 0;  // 0: none
    double probability = 0.0;
    base::Duration delay = std::chrono::milliseconds(20);  // delay, reorder
};

struct FaultPlan {
    std::uint64_t seed = 0;
    std::vector<FaultRule> rules{};  // the first that strikes a message counts
    std::size_t held_max = 1024;     // messages held for delay and reorder; beyond they pass
    bool own_thread = true;          // false: `tick()` lets held messages go (tests with a FakeClock)
};

/// "seed=7;drop:kind=3,probability=0.01;cut:nth=5;delay:ms=50,probability=0.1". Empty text: no rules.
/// Error: invalid_argument.
[[nodiscard]] base::Result<FaultPlan> parse_fault_plan(std::string_view text);

/// Wraps a transport and hurts what it SENDS, by plan and seed. For tests, and for a real process by configuration.
[[nodiscard]] std::unique_ptr<Transport> make_fault_transport(std::unique_ptr<Transport> inner, FaultPlan plan,
                                                              const base::Clock& clock);

}  // namespace net
