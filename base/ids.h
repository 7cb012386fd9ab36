#pragma once

#include <cstdint>
#include <type_traits>

namespace base {

/// A token of the model's vocabulary. Negative values are never tokens.
using TokenId = std::int32_t;

/// One fixed run of KV (all layers of `block_tokens` tokens) inside one worker's pool.
enum class BlockId : std::uint32_t {};

/// One stream of tokens inside one worker: (request, choice). Minted by the worker, never reused by it.
enum class SequenceId : std::uint64_t {};

/// One client request, minted at random by the gateway that owns it.
enum class RequestId : std::uint64_t {};

/// One worker process as the scheduler knows it: what `--id` says, which survives a restart, else random.
enum class WorkerId : std::uint64_t {};

/// One life of a worker process: random at start, so that messages meant for its former life are recognised.
enum class Incarnation : std::uint64_t {};

/// Attempt number of a request (0, 1, ...): raised by the gateway whenever it places the request again.
/// Whatever carries an older epoch is late and must have no effect.
enum class Epoch : std::uint32_t {};

/// The number inside an id, for arithmetic, indices and messages.
template <class Id>
constexpr auto raw(Id id) {
    return static_cast<std::underlying_type_t<Id>>(id);
}

}  // namespace base
