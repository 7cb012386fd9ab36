#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

#include "base/clock.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// The answer to one client request that sequences of a source make up: Answer (text), EmbeddingAnswer (vectors). Ends
/// exactly once. I/O thread only.
class ClientAnswer {
public:
    virtual ~ClientAnswer() = default;

    /// The model that answers, of the gateway's Models.
    virtual std::size_t model() const = 0;
    /// Once. The source may answer from inside.
    virtual void start() = 0;
    virtual void client_gone(std::string_view cause) = 0;
    /// The gateway gives up (drain timeout): an error to the client, cancel to the workers.
    virtual void give_up(const ApiError& error, std::string_view cause) = 0;
    /// Does what is due, and says when the next is; also when it was asked for (Wake).
    virtual std::optional<base::TimePoint> tick(base::TimePoint now) = 0;
};

}  // namespace gateway
