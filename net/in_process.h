#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/clock.h"
#include "net/transport.h"

namespace net {

struct InProcessOptions {
    Limits limits{};
    std::size_t inbox_messages_max = 1024;  // waiting for one receiver; beyond: the send is cancelled
    std::size_t peers_max = 256;
    bool own_thread = true;  // false: `tick()` does the work (tests with a FakeClock)
};

/// Connects the in-process transports that were made with it: they find each other by name. Thread-safe. Kept alive by
/// its transports.
class InProcessNetwork {
public:
    static std::shared_ptr<InProcessNetwork> make();
    ~InProcessNetwork();

    /// A transport whose address is `name`. Error: failed_precondition when the name is in use. `clock` must outlive
    /// it.
    [[nodiscard]] base::Result<std::unique_ptr<Transport>> add(const std::string& name, const InProcessOptions& options,
                                                               const base::Clock& clock);

    struct State;

private:
    explicit InProcessNetwork(std::shared_ptr<State> state) : state_(std::move(state)) {}
    std::shared_ptr<State> state_;
};

}  // namespace net
