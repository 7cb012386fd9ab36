#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/check.h"
#include "net/ucx_transport.h"

namespace net {

using base::ErrorCode;

namespace {
constexpr int kProgressMax = 64;    // calls of ucp_worker_progress before we look at anything else
constexpr int kWaitMaxMs = 500;     // nothing to do: only the keep-alive needs us, and it wakes us by itself
constexpr int kBusyRoundsMax = 16;  // spins in vain before the thread gives up its core for a moment
constexpr auto kBusySleep = std::chrono::microseconds(30);
constexpr auto kStopMax = std::chrono::seconds(5);  // for what is under way to end after everything was closed
}  // namespace

void UcxTransport::run() {
    base::TimePoint spin_until{};
    base::TimePoint check_at{};
    int busy_rounds = 0;
    while (drain_commands()) {
        bool did = false;
        for (int i = 0; i < kProgressMax && ucp_worker_progress(worker_) != 0; ++i) {
            did = true;
        }
        did = settle() || did;
        const base::TimePoint now = clock_.now();
        if (now >= check_at) {
            check_deadlines(now);
            check_at = now + std::chrono::milliseconds(5);
        }
        if (did) {
            const bool is_moving = sends_moving_ > 0 || !receives_.empty();
            spin_until = now + (is_moving ? options_.moving_spin : options_.idle_spin);
            busy_rounds = 0;
        }
        if (now < spin_until) { continue; }
        if (ucp_worker_arm(worker_) != UCS_OK) {
            // Not ready to sleep: something has just come, or the other side's queue is full and UCX would have to be
            // asked again and again. The other side may need this very core for emptying it.
            if (++busy_rounds > kBusyRoundsMax) { std::this_thread::sleep_for(kBusySleep); }
            spin_until = now + options_.idle_spin;
            continue;
        }
        {
            const std::scoped_lock lock(mutex_);
            if (!commands_.empty() || stop_requested_) { continue; }
        }
        pollfd descriptor{event_descriptor_, POLLIN, 0};
        poll(&descriptor, 1, wait_ms(now));
        busy_rounds = 0;
    }
    close_all();
}

/// False when the transport is to stop.
bool UcxTransport::drain_commands() {
    std::vector<Command> commands;
    bool goes_on = true;
    {
        const std::scoped_lock lock(mutex_);
        commands.swap(commands_);
        goes_on = !stop_requested_;
    }
    for (Command& command : commands) {
        std::visit([this](auto& value) { apply(value); }, command);
    }
    return goes_on;
}

void UcxTransport::apply(Connect& command) {
    auto peer = std::make_unique<Peer>();
    peer->transport = this;
    peer->id = command.peer;
    peer->key = {self_, raw(command.peer), true};
    peer->address = std::move(command.address);
    peer->connect_deadline = clock_.now() + options_.connect_timeout;
    Peer& kept = *peer;
    peers_[command.peer] = std::move(peer);
    by_key_[kept.key] = &kept;
    open_endpoint(kept);
}

void UcxTransport::apply(Post& command) {
    const auto peer = peers_.find(command.peer);
    if (peer == peers_.end() || peer->second->is_lost) {
        finish(std::move(command.send), base::fail(ErrorCode::unavailable, "the connection is gone"));
        return;
    }
    post(*peer->second, std::move(command.send));
}

void UcxTransport::apply(Close& command) {
    const auto peer = peers_.find(command.peer);
    if (peer != peers_.end()) { lose(*peer->second, "connection was closed here", true); }
}

/// What the callbacks of UCX only noted. True when there was anything.
bool UcxTransport::settle() {
    bool did = false;
    for (Receive* receive : std::exchange(to_start_, {})) {
        start_receive(*receive);
        did = true;
    }
    for (Receive* receive : std::exchange(received_, {})) {
        const auto found = receives_.find(receive);
        CHECK(found != receives_.end());
        const std::unique_ptr<Receive> owned = std::move(found->second);
        receives_.erase(found);
        base::Result<void> outcome;
        if (owned->status != UCS_OK) {
            outcome = base::fail(owned->is_late ? ErrorCode::deadline_exceeded : ErrorCode::unavailable,
                                 describe("payload", owned->status));
        }
        handler_->on_payload(owned->target.token, std::move(outcome));
        did = true;
    }
    for (Send* send : std::exchange(sent_, {})) {
        const auto found = send->peer->sends.find(send);
        CHECK(found != send->peer->sends.end());
        std::unique_ptr<Send> owned = std::move(found->second);
        send->peer->sends.erase(found);
        --sends_moving_;
        base::Result<void> outcome;
        if (owned->status != UCS_OK) {
            // Without an error of the connection "cancelled" is the receiver's refusal.
            const bool is_refusal = owned->status == UCS_ERR_CANCELED && !owned->peer->is_lost;
            const ErrorCode code = owned->is_late ? ErrorCode::deadline_exceeded
                                   : is_refusal   ? ErrorCode::cancelled
                                                  : ErrorCode::unavailable;
            outcome = base::fail(code, describe("send", owned->status));
        }
        finish(std::move(owned), std::move(outcome));
        did = true;
    }
    for (Peer* peer : std::exchange(to_adopt_, {})) {
        if (peer->is_lost) { continue; }
        open_endpoint(*peer);
        did = true;
    }
    for (Peer* peer : std::exchange(said_bye_, {})) {
        lose(*peer, "the other side closed the connection", false);
        did = true;
    }
    if (std::exchange(has_failures_, false)) {
        for (auto& [id, peer] : peers_) {
            if (peer->has_failed) { lose(*peer, peer->failure, false); }
        }
        did = true;
    }
    if (peers_lost_ == 0) { return did; }
    for (auto found = peers_.begin(); found != peers_.end();) {
        Peer& peer = *found->second;
        if (peer.closing != nullptr && ucp_request_check_status(peer.closing) != UCS_INPROGRESS) {
            ucp_request_free(peer.closing);
            peer.closing = nullptr;
        }
        const bool has_ended = peer.is_lost && peer.closing == nullptr && peer.sends.empty();
        peers_lost_ -= has_ended ? 1 : 0;
        found = has_ended ? peers_.erase(found) : std::next(found);
    }
    return did;
}

void UcxTransport::check_deadlines(base::TimePoint now) {
    std::vector<Peer*> stuck;
    for (auto& [id, peer] : peers_) {
        std::erase_if(peer->waiting, [&](std::unique_ptr<Send>& send) {
            if (now < send->deadline) { return false; }
            finish(std::move(send), base::fail(ErrorCode::deadline_exceeded, "not connected in time"));
            return true;
        });
        bool is_stuck = false;
        for (auto& [key, send] : peer->sends) {
            if (now < send->deadline || send->is_late) { continue; }
            send->is_late = true;
            is_stuck = true;
        }
        const bool is_unanswered =
            !peer->is_answered && peer->connect_deadline != base::TimePoint{} && now >= peer->connect_deadline;
        if (!peer->is_lost && (is_stuck || is_unanswered)) { stuck.push_back(peer.get()); }
    }
    for (Peer* peer : stuck) {
        lose(*peer, peer->is_answered ? "a message was not taken in time" : "nobody answers at the address", false);
    }
    for (auto& [key, receive] : receives_) {
        if (now < receive->target.deadline || receive->is_late) { continue; }
        receive->is_late = true;
        lose_endpoint(receive->endpoint, receive->peer, "a payload did not come in time");
    }
}

int UcxTransport::wait_ms(base::TimePoint now) const {
    base::TimePoint until = now + std::chrono::milliseconds(kWaitMaxMs);
    for (const auto& [id, peer] : peers_) {
        if (!peer->is_answered && !peer->is_lost && peer->connect_deadline != base::TimePoint{}) {
            until = std::min(until, peer->connect_deadline);
        }
        if (peer->closing != nullptr) { until = std::min(until, now + std::chrono::milliseconds(5)); }
        for (const auto& send : peer->waiting) {
            until = std::min(until, send->deadline);
        }
        for (const auto& [key, send] : peer->sends) {
            if (!send->is_late) { until = std::min(until, send->deadline); }
        }
    }
    for (const auto& [key, receive] : receives_) {
        if (!receive->is_late) { until = std::min(until, receive->target.deadline); }
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 1, kWaitMaxMs));
}

/// Ends everything; afterwards no callback of UCX touches us.
void UcxTransport::close_all() {
    static_cast<void>(drain_commands());
    for (auto& [id, peer] : peers_) {
        if (!peer->is_lost) { lose(*peer, "this transport stops", true); }
    }
    const base::TimePoint give_up = clock_.now() + kStopMax;
    while (!peers_.empty() || !receives_.empty()) {
        while (ucp_worker_progress(worker_) != 0) {}
        settle();
        static_cast<void>(drain_commands());
        if (clock_.now() >= give_up) {
            // Nothing that UCX may still write to can be given back, so this is the end of the process.
            CHECK(receives_.empty(), receives_.size() << " payloads do not end");
            spdlog::error("net: {} UCX connections do not close", peers_.size());
            for (auto& [id, peer] : peers_) {
                static_cast<void>(peer.release());
            }
            peers_.clear();
        }
    }
}

}  // namespace net
