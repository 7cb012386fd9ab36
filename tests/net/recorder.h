#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/transport.h"

namespace net_test {

/// No test of ours takes that long unless it hangs.
inline constexpr auto kLimit = std::chrono::seconds(60);

inline base::TimePoint in(base::Duration time) {
    return std::chrono::steady_clock::now() + time;
}

/// A handler that keeps everything it hears; tests wait on a condition of it.
class Recorder final : public net::Handler {
public:
    struct Received {
        net::PeerId from{};
        net::MessageKind kind{};
        std::string header;
        std::vector<std::byte> payload;
        std::optional<base::Result<void>> outcome;  // empty: under way
    };
    struct Lost {
        net::PeerId peer{};
        base::Error why;
    };

    base::Result<net::Target> on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t payload_bytes) override {
        const std::scoped_lock lock(mutex_);
        if (refuses_) {
            ++refused_;
            changed_.notify_all();
            return base::fail(base::ErrorCode::resource_exhausted, "the test refuses");
        }
        Received& received = received_.emplace_back();
        received.from = from;
        received.kind = kind;
        received.header.assign(reinterpret_cast<const char*>(header.data()), header.size());
        received.payload.resize(payload_bytes);
        if (payload_bytes == 0) { received.outcome.emplace(); }
        const net::ReceiveToken token{++tokens_};
        if (payload_bytes != 0) { under_way_[token] = &received; }
        changed_.notify_all();
        return net::Target{received.payload, token, in(payload_timeout_)};
    }

    void on_payload(net::ReceiveToken token, base::Result<void> outcome) override {
        const std::scoped_lock lock(mutex_);
        const auto found = under_way_.find(token);
        if (found == under_way_.end()) {
            ++stray_payloads_;
            return;
        }
        found->second->outcome = std::move(outcome);
        under_way_.erase(found);
        changed_.notify_all();
    }

    void on_peer_lost(net::PeerId peer, const base::Error& why) override {
        const std::scoped_lock lock(mutex_);
        lost_.push_back({peer, why});
        changed_.notify_all();
    }

    /// A completion that is recorded under `name`.
    net::Completion completion(const std::string& name) {
        return [this, name](base::Result<void> outcome) {
            const std::scoped_lock lock(mutex_);
            completions_[name].push_back(std::move(outcome));
            changed_.notify_all();
        };
    }

    void refuse(bool refuses) {
        const std::scoped_lock lock(mutex_);
        refuses_ = refuses;
    }
    void set_payload_timeout(base::Duration timeout) {
        const std::scoped_lock lock(mutex_);
        payload_timeout_ = timeout;
    }

    /// False when it did not come true within kLimit.
    template <class Condition>
    bool wait(Condition condition) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, kLimit, [&] { return condition(*this); });
    }
    bool wait_received(std::size_t count) {
        return wait([count](Recorder& self) {
            std::size_t ended = 0;
            for (const Received& received : self.received_) {
                ended += received.outcome.has_value() ? 1 : 0;
            }
            return ended >= count;
        });
    }
    bool wait_lost(net::PeerId peer) {
        return wait([peer](Recorder& self) { return self.has_lost(peer); });
    }
    /// What `look` makes of it, with the lock.
    template <class Look>
    auto look(Look look) {
        const std::scoped_lock lock(mutex_);
        return look(*this);
    }
    /// The outcome of the send named so; unavailable with "hangs" when there is none within kLimit.
    base::Result<void> outcome(const std::string& name) {
        if (!wait([&](Recorder& self) { return !self.completions_[name].empty(); })) {
            return base::fail(base::ErrorCode::internal, "hangs");
        }
        const std::scoped_lock lock(mutex_);
        return completions_[name].front();
    }

    // With the lock (inside a wait condition), or when nothing moves any more.
    bool has_lost(net::PeerId peer) const {
        for (const Lost& lost : lost_) {
            if (lost.peer == peer) { return true; }
        }
        return false;
    }
    std::list<Received> received_;
    std::vector<Lost> lost_;
    std::map<std::string, std::vector<base::Result<void>>> completions_;
    std::map<net::ReceiveToken, Received*> under_way_;
    int stray_payloads_ = 0;
    std::size_t refused_ = 0;

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::uint64_t tokens_ = 0;
    bool refuses_ = false;
    base::Duration payload_timeout_ = std::chrono::seconds(30);
};

/// Bytes that differ from each other and from other seeds' bytes.
inline std::shared_ptr<std::vector<std::byte>> pattern(std::size_t bytes, unsigned seed) {
    auto data = std::make_shared<std::vector<std::byte>>(bytes);
    std::uint64_t state = seed * 0x9e3779b97f4a7c15ull + 1;
    for (std::byte& byte : *data) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        byte = static_cast<std::byte>(state >> 56);
    }
    return data;
}

inline net::Message message(unsigned kind, std::string header, const std::shared_ptr<std::vector<std::byte>>& data) {
    return {net::MessageKind{static_cast<std::uint16_t>(kind)}, std::move(header),
            data ? net::Payload{*data, data} : net::Payload{}};
}

/// Two started transports that know each other's address.
struct Pair {
    std::unique_ptr<net::Transport> left;
    std::unique_ptr<net::Transport> right;
    std::unique_ptr<Recorder> heard_left = std::make_unique<Recorder>();
    std::unique_ptr<Recorder> heard_right = std::make_unique<Recorder>();

    Pair() = default;
    Pair(Pair&&) = default;
    ~Pair() {
        if (left) { left->stop(); }
        if (right) { right->stop(); }
    }
};

/// What every transport promises. `make_pair` gives a fresh, started pair.
void check_transport(const std::function<Pair()>& make_pair);

}  // namespace net_test
