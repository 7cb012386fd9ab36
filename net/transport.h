#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/clock.h"
#include "base/result.h"

namespace net {

/// One connection as one transport sees it. Minted by that transport, never reused by it; 0 is no peer.
enum class PeerId : std::uint64_t {};

/// Says which message this is to those who talk over the transport; the transport only carries it. Below 256.
enum class MessageKind : std::uint16_t {};

/// Names one target that a handler gave, until its `on_payload`.
enum class ReceiveToken : std::uint64_t {};

template <class Id>
constexpr auto raw(Id id) {
    return static_cast<std::underlying_type_t<Id>>(id);
}

/// Bytes to send. Without an owner the caller keeps them alive and unchanged until the completion of the send.
struct Payload {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;  // may be null
};

/// A small header and, for bulk, a payload.
struct Message {
    MessageKind kind{};
    std::string header;  // at most Limits::header_bytes_max; the transport keeps its own copy
    Payload payload;     // may be empty, at most Limits::payload_bytes_max
};

struct Limits {
    std::size_t header_bytes_max = 1024;
    std::size_t payload_bytes_max = std::size_t{8} << 20;
};

/// Where a payload goes. The bytes stay alive, and nobody else touches them, until `on_payload(token, ..)`.
struct Target {
    std::span<std::byte> bytes;  // exactly as long as the payload; ignored when the payload is empty
    ReceiveToken token{};
    base::TimePoint deadline{};  // the connection is closed by force when the payload is not there by then
};

/// What a transport tells its user. Every call comes on the transport's own thread (in `tick()` when it has none), one
/// at a time; it must return quickly, may call the transport's methods, and must not wait for anything.
class Handler {
public:
    virtual ~Handler() = default;

    /// A message from `from` begins. The header's bytes are valid only during the call. An error refuses the message
    /// before its payload is taken; the sender's send may then succeed all the same, so tell it by a message of your
    /// own. With an empty payload the target is ignored and `on_payload` is not called.
    virtual base::Result<Target> on_header(PeerId from, MessageKind kind, std::span<const std::byte> header,
                                           std::size_t payload_bytes) = 0;

    /// Exactly once for every target that `on_header` gave for a payload: now nobody writes to it any more. An error
    /// (deadline_exceeded, unavailable) means that its bytes are undefined.
    virtual void on_payload(ReceiveToken token, base::Result<void> outcome) = 0;

    /// At most once for every peer, also for one that `disconnect` closed: nothing comes from it any more, except
    /// the `on_payload` of targets given before. The peer id is dead.
    virtual void on_peer_lost(PeerId peer, const base::Error& why) = 0;
};

/// Called exactly once on the transport's thread, for a send that was taken. Success means that the transport needs the
/// payload no longer; it does NOT mean that anybody received it: acknowledge in messages of your own.
/// Errors: deadline_exceeded, unavailable (connection lost or closed), cancelled (refused by the receiver, stopped).
using Completion = std::function<void(base::Result<void>)>;

/// Messages between processes (or threads): connection-oriented, unordered, may lose or repeat nothing by itself but
/// promises nothing either. The one who connects and the one who is connected to both see the connection as a PeerId
/// and both may send over it. Thread-safe; no method waits for the network. All queues have an upper bound.
///
/// Life: construct, hand `address()` to others, `start`, use, `stop`, destroy.
class Transport {
public:
    virtual ~Transport() = default;

    /// "ucx", "inprocess": label in metrics.
    virtual std::string_view name() const = 0;
    /// What others give to their `connect`, valid for the life of this object. Opaque bytes, exchanged over the control
    /// plane. Messages that arrive before `start` wait.
    virtual const std::string& address() const = 0;
    virtual Limits limits() const = 0;

    /// Begins to deliver. `handler` must outlive `stop()`. Once. Error: whatever the machine refuses.
    [[nodiscard]] virtual base::Result<void> start(Handler& handler) = 0;

    /// The live connection to `address` (whoever began it), else a new one on its way. Returns at once: a connection
    /// that does not come about within the transport's connect time ends with `on_peer_lost`; until then sends wait.
    /// Error: invalid_argument (not an address), resource_exhausted (too many peers), unavailable (not running).
    [[nodiscard]] virtual base::Result<PeerId> connect(const std::string& address) = 0;

    /// Takes a message. At `deadline` the send ends with deadline_exceeded; when its payload is on the way then, the
    /// connection is closed by force, because nothing less ends a transfer.
    /// Errors (the completion is then never called): resource_exhausted (queue full), invalid_argument (too long),
    /// unavailable (peer is gone, not running).
    [[nodiscard]] virtual base::Result<void> send(PeerId peer, Message message, base::TimePoint deadline,
                                                  Completion done) = 0;

    /// Closes the connection by force; sends and receives under way end with unavailable. Unknown peers: no effect.
    virtual void disconnect(PeerId peer) = 0;

    /// Closes everything, ends what is under way (completions and `on_payload` are called), joins the thread.
    /// Idempotent. Not from a handler.
    virtual void stop() = 0;

    /// For a transport built without a thread of its own: does what is to be done now and returns whether it did
    /// anything. Tests with a FakeClock call it; otherwise it does nothing.
    virtual bool tick() { return false; }
};

}  // namespace net
