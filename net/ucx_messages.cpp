#include <spdlog/spdlog.h>

#include <cstring>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/seal.h"
#include "net/ucx_transport.h"

namespace net {

using base::ErrorCode;

namespace {

constexpr unsigned kMessageId = 1;
constexpr std::size_t kRendezvousBytes = 4096;  // from here on the payload goes straight into its target
constexpr std::size_t kClosedInitiatorsMax = 4096;

UcxPrefix prefix_of(const std::string& header) {
    UcxPrefix prefix;
    std::memcpy(&prefix, header.data(), sizeof prefix);
    return prefix;
}

}  // namespace

ucs_status_t UcxTransport::on_message(void* self, const void* header, std::size_t header_bytes, void* data,
                                      std::size_t data_bytes, const ucp_am_recv_param_t* param) {
    auto& transport = *static_cast<UcxTransport*>(self);
    UcxPrefix prefix;
    if (header_bytes < sizeof prefix) { return UCS_ERR_CANCELED; }
    std::memcpy(&prefix, header, sizeof prefix);
    const std::span all(static_cast<const std::byte*>(header), header_bytes);
    return transport.receive_message(prefix, all.subspan(sizeof prefix), data, data_bytes, *param);
}

ucs_status_t UcxTransport::receive_message(const UcxPrefix& prefix, std::span<const std::byte> header, void* data,
                                           std::size_t data_bytes, const ucp_am_recv_param_t& param) {
    const bool is_rendezvous = (param.recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    const ucs_status_t refused = is_rendezvous ? UCS_ERR_CANCELED : UCS_OK;
    Peer* peer = find(prefix);
    if (peer == nullptr && prefix.type == UcxPrefix::Type::hello) { peer = admit(prefix, header); }
    if (peer == nullptr) { return refused; }
    peer->is_answered = true;
    switch (prefix.type) {
        case UcxPrefix::Type::message:
            break;
        case UcxPrefix::Type::hello:
            return refused;
        case UcxPrefix::Type::hello_ack:
            return refused;
        case UcxPrefix::Type::bye:
            said_bye_.push_back(peer);
            return refused;
        default:
            return refused;
    }
    const auto target = handler_->on_header(peer->id, MessageKind{prefix.kind}, header, data_bytes);
    if (!target) { return refused; }
    if (data_bytes == 0) { return UCS_OK; }
    CHECK(target->bytes.size() == data_bytes, target->bytes.size() << " for " << data_bytes);
    if (!is_rendezvous) {
        std::memcpy(target->bytes.data(), data, data_bytes);
        handler_->on_payload(target->token, {});
        return UCS_OK;
    }
    auto receive = std::make_unique<Receive>();
    receive->transport = this;
    receive->peer = peer->id;
    receive->endpoint = (param.recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0 ? param.reply_ep : nullptr;
    receive->descriptor = data;
    receive->target = *target;
    to_start_.push_back(receive.get());
    receives_[receive.get()] = std::move(receive);
    return UCS_INPROGRESS;  // the descriptor is ours until the receive starts
}

/// The live peer of this connection, or null.
UcxTransport::Peer* UcxTransport::find(const UcxPrefix& prefix) const {
    const auto known = by_key_.find({prefix.initiator, prefix.connection, prefix.is_from_initiator == 0});
    return known == by_key_.end() ? nullptr : known->second;
}

/// A new peer, for a hello with an address that has the cluster's MAC; null when it has not, or was closed here.
UcxTransport::Peer* UcxTransport::admit(const UcxPrefix& prefix, std::span<const std::byte> hello) {
    const ConnectionKey key{prefix.initiator, prefix.connection, prefix.is_from_initiator == 0};
    if (key.is_ours) { return nullptr; }
    const std::string_view address(reinterpret_cast<const char*>(hello.data()), hello.size());
    if (const auto fine = base::check_address(options_.key, address, base::Incarnation{key.initiator}); !fine) {
        spdlog::warn("net: somebody is refused: {}", fine.error().message);
        return nullptr;
    }
    const auto closed = closed_until_.find(key.initiator);
    if (closed != closed_until_.end() && key.connection <= closed->second) { return nullptr; }
    auto peer = std::make_unique<Peer>();
    {
        const std::scoped_lock lock(mutex_);
        if (live_.size() >= options_.peers_max) { return nullptr; }
        peer->id = PeerId{++peers_minted_};
        live_.insert(peer->id);
    }
    peer->transport = this;
    peer->key = key;
    peer->address = address;
    Peer* kept = peer.get();
    to_adopt_.push_back(kept);
    // Whoever begins a new connection has given up the one before.
    for (auto& [other, existing] : by_key_) {
        if (other.initiator == key.initiator && !other.is_ours) { said_bye_.push_back(existing); }
    }
    by_key_[key] = kept;
    peers_[kept->id] = std::move(peer);
    return kept;
}

/// Creates the endpoint: on the initiator's side for a new connection, on the other side for one that said hello (UCX
/// then finds the endpoint that it made itself when the connection came).
void UcxTransport::open_endpoint(Peer& peer) {
    const auto opened = base::open_address(options_.key, peer.address);  // looked at a second time: UCX does not look
    if (!opened) {
        lose(peer, opened.error().message, false);
        return;
    }
    ucp_ep_params_t params{};
    params.field_mask =
        UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(opened->address.data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler.cb = &UcxTransport::on_endpoint_error;
    params.err_handler.arg = &peer;
    const ucs_status_t status = ucp_ep_create(worker_, &params, &peer.endpoint);
    if (status != UCS_OK) {
        peer.endpoint = nullptr;
        lose(peer, describe("ucp_ep_create", status), false);
        return;
    }
    if (peer.key.is_ours) {
        post_control(peer, UcxPrefix::Type::hello, address_);
    } else {
        const std::scoped_lock lock(mutex_);
        by_address_.try_emplace(peer.address, peer.id);
    }
    if (!peer.key.is_ours) { post_control(peer, UcxPrefix::Type::hello_ack, {}); }
    for (std::unique_ptr<Send>& send : std::exchange(peer.waiting, {})) {
        if (!peer.is_lost) { post(peer, std::move(send)); }
    }
}

void UcxTransport::post_control(Peer& peer, UcxPrefix::Type type, const std::string& body) {
    UcxPrefix prefix{};
    prefix.type = type;
    auto send = std::make_unique<Send>();
    send->transport = this;
    send->header.resize(sizeof prefix);
    std::memcpy(send->header.data(), &prefix, sizeof prefix);
    send->header += body;
    send->deadline = clock_.now() + options_.connect_timeout;
    post(peer, std::move(send));
}

void UcxTransport::post(Peer& peer, std::unique_ptr<Send> send) {
    if (peer.endpoint == nullptr) {
        peer.waiting.push_back(std::move(send));
        return;
    }
    UcxPrefix prefix = prefix_of(send->header);
    prefix.initiator = peer.key.initiator;
    prefix.connection = peer.key.connection;
    prefix.is_from_initiator = peer.key.is_ours ? 1 : 0;
    std::memcpy(send->header.data(), &prefix, sizeof prefix);
    send->peer = &peer;

    const std::span<const std::byte> payload = send->payload.bytes;
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
    params.cb.send = &UcxTransport::on_sent;
    params.user_data = send.get();
    // With the reply flag the receiver learns which endpoint to close should the payload not come.
    params.flags = payload.size() >= kRendezvousBytes ? UCP_AM_SEND_FLAG_RNDV | UCP_AM_SEND_FLAG_REPLY
                                                      : static_cast<unsigned>(UCP_AM_SEND_FLAG_EAGER);
    Send& kept = *send;
    peer.sends[&kept] = std::move(send);
    ++sends_moving_;
    const ucs_status_ptr_t request = ucp_am_send_nbx(peer.endpoint, kMessageId, kept.header.data(), kept.header.size(),
                                                     payload.data(), payload.size(), &params);
    if (request == nullptr) {
        kept.status = UCS_OK;
        sent_.push_back(&kept);
    } else if (UCS_PTR_IS_ERR(request)) {
        kept.status = UCS_PTR_STATUS(request);
        sent_.push_back(&kept);
    }
}

void UcxTransport::on_sent(void* request, ucs_status_t status, void* user_data) {
    auto* send = static_cast<Send*>(user_data);
    send->status = status;
    send->transport->sent_.push_back(send);
    ucp_request_free(request);
}

void UcxTransport::on_received(void* request, ucs_status_t status, std::size_t, void* user_data) {
    auto* receive = static_cast<Receive*>(user_data);
    receive->status = status;
    receive->transport->received_.push_back(receive);
    ucp_request_free(request);
}

void UcxTransport::on_endpoint_error(void* user_data, ucp_ep_h, ucs_status_t status) {
    auto& peer = *static_cast<Peer*>(user_data);
    peer.has_failed = true;
    peer.failure = describe("connection", status);
    peer.transport->has_failures_ = true;
}

void UcxTransport::start_receive(Receive& receive) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.recv_am = &UcxTransport::on_received;
    params.user_data = &receive;
    receive.is_started = true;
    const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker_, receive.descriptor, receive.target.bytes.data(),
                                                          receive.target.bytes.size(), &params);
    if (request == nullptr) {
        receive.status = UCS_OK;
        received_.push_back(&receive);
    } else if (UCS_PTR_IS_ERR(request)) {
        receive.status = UCS_PTR_STATUS(request);
        received_.push_back(&receive);
    }
}

void UcxTransport::finish(std::unique_ptr<Send> send, base::Result<void> outcome) {
    send->payload = {};
    if (!send->done) { return; }  // one of our own
    {
        const std::scoped_lock lock(mutex_);
        --posted_;
    }
    send->done(std::move(outcome));
}

/// Closes the connection by force and tells the handler. The peer stays until everything under way has ended.
void UcxTransport::lose(Peer& peer, const std::string& why, bool say_bye) {
    if (peer.is_lost) { return; }
    if (say_bye && peer.endpoint != nullptr && !peer.has_failed) {
        post_control(peer, UcxPrefix::Type::bye, {});
        // A short eager message leaves at once, or with the next progress; if not, the other side's timers do.
        for (int i = 0; i < 4; ++i) {
            ucp_worker_progress(worker_);
        }
    }
    peer.is_lost = true;
    ++peers_lost_;
    by_key_.erase(peer.key);
    if (!peer.key.is_ours) {
        if (closed_until_.size() >= kClosedInitiatorsMax) { closed_until_.erase(closed_until_.begin()); }
        std::uint64_t& closed = closed_until_[peer.key.initiator];
        closed = std::max(closed, peer.key.connection);
    }
    {
        const std::scoped_lock lock(mutex_);
        live_.erase(peer.id);
        const auto named = by_address_.find(peer.address);
        if (named != by_address_.end() && named->second == peer.id) { by_address_.erase(named); }
    }
    for (std::unique_ptr<Send>& send : std::exchange(peer.waiting, {})) {
        finish(std::move(send), base::fail(ErrorCode::unavailable, why));
    }
    if (const ucp_ep_h endpoint = std::exchange(peer.endpoint, nullptr); endpoint != nullptr) {
        ucp_request_param_t params{};
        params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
        params.flags = UCP_EP_CLOSE_FLAG_FORCE;
        const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint, &params);
        if (UCS_PTR_IS_PTR(request)) { peer.closing = request; }
    }
    handler_->on_peer_lost(peer.id, base::Error{ErrorCode::unavailable, why});
}

/// A payload under way ends only with the endpoint that it came by: mostly that of its peer, but when both sides began
/// a connection at the same time UCX may have paired the endpoints crosswise.
void UcxTransport::lose_endpoint(ucp_ep_h endpoint, PeerId id, const std::string& why) {
    if (const auto peer = peers_.find(id); peer != peers_.end()) { lose(*peer->second, why, false); }
    if (endpoint == nullptr) { return; }
    for (auto& [other, peer] : peers_) {
        if (peer->endpoint == endpoint) {
            lose(*peer, why, false);
            return;
        }
    }
}

}  // namespace net
