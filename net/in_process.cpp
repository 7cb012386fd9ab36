#include "net/in_process.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"

namespace net {

using base::Error;
using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

/// For other threads to end the copy that they are at.
constexpr base::Duration kStopPatience = std::chrono::seconds(60);

/// One message on its way, known to both sides. All fields but the constant ones are guarded by State::mutex.
struct InFlight {
    enum class Phase { queued, taking, ended };

    Message message;
    base::TimePoint deadline;
    PeerId sender_peer;    // how the sender calls the connection
    PeerId receiver_peer;  // how the receiver calls it
    Completion done;
    Phase phase = Phase::queued;
};

class InProcessTransport;

/// The other end of a connection.
struct Link {
    InProcessTransport* remote;
    PeerId remote_peer;
};

}  // namespace

/// One mutex for a whole network: plain, and the copies of payloads are made outside of it.
struct InProcessNetwork::State {
    std::mutex mutex;
    std::map<std::string, InProcessTransport*> nodes;  // guarded by mutex
};

namespace {

class InProcessTransport final : public Transport {
public:
    InProcessTransport(std::string name, InProcessOptions options, const base::Clock& clock,
                       std::shared_ptr<InProcessNetwork::State> network)
        : address_(std::move(name)), options_(options), clock_(clock), network_(std::move(network)) {}
    ~InProcessTransport() override { stop(); }

    std::string_view name() const override { return "inprocess"; }
    const std::string& address() const override { return address_; }
    Limits limits() const override { return options_.limits; }

    Result<void> start(Handler& handler) override {
        {
            const std::scoped_lock lock(network_->mutex);
            CHECK(handler_ == nullptr, "start() is called once");
            if (is_stopped_) { return fail(ErrorCode::unavailable, "transport " + address_ + " has stopped"); }
            handler_ = &handler;
        }
        if (options_.own_thread) {
            thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
        }
        return {};
    }

    Result<PeerId> connect(const std::string& address) override {
        const std::scoped_lock lock(network_->mutex);
        if (is_stopped_) { return fail(ErrorCode::unavailable, "transport " + address_ + " is not running"); }
        if (address.empty()) { return fail(ErrorCode::invalid_argument, "empty address"); }
        const auto found = network_->nodes.find(address);
        InProcessTransport* remote = found == network_->nodes.end() ? nullptr : found->second;
        for (const auto& [peer, link] : links_) {
            if (remote != nullptr && link.remote == remote) { return peer; }
        }
        if (links_.size() + lost_.size() >= options_.peers_max) {
            return fail(ErrorCode::resource_exhausted, std::to_string(options_.peers_max) + " peers already");
        }
        const PeerId peer = mint();
        if (remote == nullptr || remote->links_.size() >= remote->options_.peers_max) {
            lost_.emplace_back(peer, Error{ErrorCode::unavailable, "nobody answers at " + address});
            wake();
            return peer;
        }
        const PeerId back = remote->mint();
        links_[peer] = Link{remote, back};
        // A connection to oneself has two ends in one table.
        remote->links_[back] = Link{this, peer};
        return peer;
    }

    Result<void> send(PeerId peer, Message message, base::TimePoint deadline, Completion done) override {
        if (message.header.size() > options_.limits.header_bytes_max ||
            message.payload.bytes.size() > options_.limits.payload_bytes_max) {
            return fail(ErrorCode::invalid_argument, "message of " + std::to_string(message.header.size()) + " + " +
                                                         std::to_string(message.payload.bytes.size()) +
                                                         " bytes is too long");
        }
        const std::scoped_lock lock(network_->mutex);
        const auto link = links_.find(peer);
        if (is_stopped_ || link == links_.end()) {
            return fail(ErrorCode::unavailable, "peer " + std::to_string(raw(peer)) + " is gone");
        }
        InProcessTransport& remote = *link->second.remote;
        if (remote.inbox_.size() >= remote.options_.inbox_messages_max) {
            return fail(ErrorCode::resource_exhausted, "inbox of " + remote.address_ + " is full");
        }
        auto flight = std::make_shared<InFlight>(
            InFlight{std::move(message), deadline, peer, link->second.remote_peer, std::move(done)});
        sent_.push_back(flight);
        remote.inbox_.push_back({std::move(flight), this});
        remote.wake();
        return {};
    }

    void disconnect(PeerId peer) override {
        const std::scoped_lock lock(network_->mutex);
        cut(peer, "connection was closed");
    }

    void stop() override {
        {
            const std::scoped_lock lock(network_->mutex);
            if (is_stopped_) { return; }
            is_stopped_ = true;
            network_->nodes.erase(address_);
            while (!links_.empty()) {
                cut(links_.begin()->first, "transport " + address_ + " has stopped");
            }
            wake();
        }
        if (thread_.joinable()) {
            thread_.request_stop();
            {
                const std::scoped_lock lock(network_->mutex);
                wake();
            }
            thread_.join();
        }
        while (step()) {}
        std::unique_lock lock(network_->mutex);
        // Another thread may still be copying one of our payloads.
        CHECK(changed_.wait_for(lock, kStopPatience, [this] { return sent_.empty(); }),
              address_ << " stops, but " << sent_.size() << " of its messages are still being copied");
        lock.unlock();
        while (step()) {}
    }

    bool tick() override { return options_.own_thread ? false : step(); }

private:
    struct Incoming {
        std::shared_ptr<InFlight> flight;
        InProcessTransport* from;  // valid while flight is not ended
    };

    PeerId mint() { return PeerId{++peers_minted_}; }
    void wake() {
        ++wakes_;
        changed_.notify_all();
    }

    /// Takes the connection out of both tables and ends what waits on it. With the mutex.
    void cut(PeerId peer, const std::string& why) {
        const auto found = links_.find(peer);
        if (found == links_.end()) { return; }
        const Link link = found->second;
        links_.erase(found);
        link.remote->links_.erase(link.remote_peer);
        lose(peer, why);
        link.remote->lose(link.remote_peer, why);
    }

    void lose(PeerId peer, const std::string& why) {
        end_sends(ErrorCode::unavailable, why, [&](const InFlight& flight) { return flight.sender_peer == peer; });
        lost_.emplace_back(peer, Error{ErrorCode::unavailable, why});
        wake();
    }

    /// Ends queued sends for which `which` holds. One that is being copied right now ends by itself. With the mutex.
    template <class Which>
    void end_sends(ErrorCode code, const std::string& why, Which which) {
        std::erase_if(sent_, [&](const std::shared_ptr<InFlight>& flight) {
            if (flight->phase != InFlight::Phase::queued || !which(*flight)) { return false; }
            flight->phase = InFlight::Phase::ended;
            finished_.emplace_back(flight, fail(code, why));
            return true;
        });
    }

    void run(std::stop_token stop) {
        while (true) {
            while (step()) {}
            std::unique_lock lock(network_->mutex);
            if (stop.stop_requested()) { return; }
            base::TimePoint until = clock_.now() + std::chrono::milliseconds(200);
            for (const auto& flight : sent_) {
                until = std::min(until, flight->deadline);
            }
            changed_.wait_until(lock, until, [&] { return wakes_ != wakes_seen_ || stop.stop_requested(); });
            wakes_seen_ = wakes_;
        }
    }

    /// Delivers what is there; false when there was nothing.
    bool step() {
        std::vector<std::pair<std::shared_ptr<InFlight>, Result<void>>> finished;
        std::vector<std::pair<PeerId, Error>> lost;
        std::deque<Incoming> inbox;
        Handler* handler = nullptr;
        {
            const std::scoped_lock lock(network_->mutex);
            const base::TimePoint now = clock_.now();
            end_sends(ErrorCode::deadline_exceeded, "message was not taken in time",
                      [&](const InFlight& flight) { return flight.deadline <= now; });
            finished.swap(finished_);
            handler = handler_;
            if (handler != nullptr) {
                lost.swap(lost_);
                inbox.swap(inbox_);
            }
        }
        for (auto& [flight, outcome] : finished) {
            flight->message.payload = {};
            flight->done(std::move(outcome));
        }
        for (Incoming& incoming : inbox) {
            deliver(*handler, incoming);
        }
        for (const auto& [peer, why] : lost) {
            handler->on_peer_lost(peer, why);
        }
        return !finished.empty() || !lost.empty() || !inbox.empty();
    }

    void deliver(Handler& handler, const Incoming& incoming) {
        InFlight& flight = *incoming.flight;
        {
            const std::scoped_lock lock(network_->mutex);
            if (flight.phase != InFlight::Phase::queued) { return; }
            flight.phase = InFlight::Phase::taking;
        }
        const std::span<const std::byte> payload = flight.message.payload.bytes;
        const auto target = handler.on_header(flight.receiver_peer, flight.message.kind,
                                              std::as_bytes(std::span(flight.message.header)), payload.size());
        Result<void> outcome;
        if (!target) {
            outcome = fail(ErrorCode::cancelled, "refused: " + target.error().message);
        } else if (!payload.empty()) {
            CHECK(target->bytes.size() == payload.size(), target->bytes.size() << " for " << payload.size());
            std::memcpy(target->bytes.data(), payload.data(), payload.size());
            handler.on_payload(target->token, {});
        }
        const std::scoped_lock lock(network_->mutex);
        flight.phase = InFlight::Phase::ended;
        std::erase(incoming.from->sent_, incoming.flight);
        incoming.from->finished_.emplace_back(incoming.flight, std::move(outcome));
        incoming.from->wake();
    }

    const std::string address_;
    const InProcessOptions options_;
    const base::Clock& clock_;
    const std::shared_ptr<InProcessNetwork::State> network_;

    // Guarded by network_->mutex, the condition with it.
    std::condition_variable changed_;
    Handler* handler_ = nullptr;
    bool is_stopped_ = false;
    std::uint64_t wakes_ = 0;
    std::uint64_t wakes_seen_ = 0;
    std::uint64_t peers_minted_ = 0;
    std::map<PeerId, Link> links_;
    std::deque<Incoming> inbox_;
    std::vector<std::shared_ptr<InFlight>> sent_;  // by us, not ended
    std::vector<std::pair<std::shared_ptr<InFlight>, Result<void>>> finished_;
    std::vector<std::pair<PeerId, Error>> lost_;

    std::jthread thread_;
};

}  // namespace

std::shared_ptr<InProcessNetwork> InProcessNetwork::make() {
    return std::shared_ptr<InProcessNetwork>(new InProcessNetwork(std::make_shared<State>()));
}

InProcessNetwork::~InProcessNetwork() = default;

Result<std::unique_ptr<Transport>> InProcessNetwork::add(const std::string& name, const InProcessOptions& options,
                                                         const base::Clock& clock) {
    auto transport = std::make_unique<InProcessTransport>(name, options, clock, state_);
    const std::scoped_lock lock(state_->mutex);
    if (!state_->nodes.emplace(name, transport.get()).second) {
        return fail(ErrorCode::failed_precondition, "the name " + name + " is in use");
    }
    return transport;
}

}  // namespace net
