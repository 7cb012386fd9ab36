#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kv_transfer/frames.h"
#include "kv_transfer/handoff.h"
#include "net/transport.h"
#include "proto/kv_transfer.pb.h"
#include "proto/version.h"

namespace kv_test {

struct ProtocolVersion {
    std::uint32_t version = proto::kProtocolVersion;
    std::uint32_t minor = proto::kProtocolMinor;
    bool operator==(const ProtocolVersion&) const = default;
};

/// A peer of another version, as the others see it: every message that leaves says so, and carries a field that nobody
/// else knows.
class VersionTransport final : public net::Transport {
public:
    VersionTransport(std::unique_ptr<net::Transport> inner, ProtocolVersion speaks)
        : inner_(std::move(inner)), speaks_(speaks) {}

    std::string_view name() const override { return inner_->name(); }
    const std::string& address() const override { return inner_->address(); }
    net::Limits limits() const override { return inner_->limits(); }
    base::Result<void> start(net::Handler& handler) override { return inner_->start(handler); }
    base::Result<net::PeerId> connect(const std::string& address) override { return inner_->connect(address); }
    base::Result<void> send(net::PeerId peer, net::Message message, base::TimePoint deadline,
                            net::Completion done) override {
        if (!message.payload.bytes.empty()) { payloads.push_back(message.payload.bytes); }
        if (speaks_ != ProtocolVersion{}) { message.header = changed(message.kind, message.header); }
        return inner_->send(peer, std::move(message), deadline, std::move(done));
    }
    void disconnect(net::PeerId peer) override { inner_->disconnect(peer); }
    void stop() override { inner_->stop(); }
    bool tick() override { return inner_->tick(); }

    std::vector<std::span<const std::byte>> payloads;  // where what was sent lay; not to be read any more

private:
    template <class Message>
    std::string changed_as(net::MessageKind kind, const std::string& header) const {
        Message message;
        if (!kv_transfer::unseal(kind, std::as_bytes(std::span(header)), message)) { std::abort(); }
        message.mutable_header()->set_protocol_version(speaks_.version);
        message.mutable_header()->set_protocol_minor(speaks_.minor);
        message.GetReflection()->MutableUnknownFields(&message)->AddVarint(1000, 7);
        return kv_transfer::seal(kind, message);
    }
    std::string changed(net::MessageKind kind, const std::string& header) const {
        if (kind == kv_transfer::kRoomRequest) { return changed_as<proto::RoomRequest>(kind, header); }
        if (kind == kv_transfer::kRoomReply) { return changed_as<proto::RoomReply>(kind, header); }
        if (kind == kv_transfer::kFrame) { return changed_as<proto::KvFrame>(kind, header); }
        if (kind == kv_transfer::kFetch) { return changed_as<proto::KvFetch>(kind, header); }
        if (kind == kv_transfer::kAck) { return changed_as<proto::KvAck>(kind, header); }
        return changed_as<proto::KvAbort>(kind, header);
    }

    std::unique_ptr<net::Transport> inner_;
    ProtocolVersion speaks_;
};

}  // namespace kv_test
