#include "net/fault.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "base/check.h"

namespace net {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

Payload copy_of(std::span<const std::byte> bytes) {
    auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin(), bytes.end());
    const std::span<const std::byte> view(*copy);
    return Payload{view, std::move(copy)};
}

class FaultTransport final : public Transport {
public:
    FaultTransport(std::unique_ptr<Transport> inner, FaultPlan plan, const base::Clock& clock)
        : inner_(std::move(inner)), plan_(std::move(plan)), clock_(clock), random_(plan_.seed) {
        seen_.resize(plan_.rules.size());
    }
    ~FaultTransport() override { stop(); }

    std::string_view name() const override { return inner_->name(); }
    const std::string& address() const override { return inner_->address(); }
    Limits limits() const override { return inner_->limits(); }

    Result<void> start(Handler& handler) override {
        auto started = inner_->start(handler);
        if (started && plan_.own_thread) {
            thread_ = std::jthread([this](std::stop_token stop) { run(stop); });
        }
        return started;
    }

    Result<PeerId> connect(const std::string& address) override { return inner_->connect(address); }
    void disconnect(PeerId peer) override { inner_->disconnect(peer); }

    Result<void> send(PeerId peer, Message message, base::TimePoint deadline, Completion done) override {
        std::unique_lock lock(mutex_);
        const FaultRule* rule = strikes(message.kind);
        if (rule != nullptr && rule->fault == FaultKind::corrupt) { corrupt(message); }
        const bool is_room = held_.size() < plan_.held_max && !is_stopped_;
        const base::TimePoint now = clock_.now();
        if (rule != nullptr && is_room) {
            switch (rule->fault) {
                case FaultKind::drop:
                    hold(now, true, false, peer, std::move(message), deadline, std::move(done));
                    return {};
                case FaultKind::delay:
                    hold(now + rule->delay, false, false, peer, std::move(message), deadline, std::move(done));
                    return {};
                case FaultKind::reorder:
                    hold(now + rule->delay, false, true, peer, std::move(message), deadline, std::move(done));
                    return {};
                case FaultKind::corrupt:
                case FaultKind::duplicate:
                case FaultKind::cut:
                    break;
            }
        }
        std::vector<Held> overtaken;
        for (auto held = held_.begin(); held != held_.end();) {
            if (held->leaves_after_next && held->peer == peer) {
                overtaken.push_back(std::move(*held));
                held = held_.erase(held);
            } else {
                ++held;
            }
        }
        lock.unlock();
        if (rule != nullptr && rule->fault == FaultKind::cut) { inner_->disconnect(peer); }
        if (rule != nullptr && rule->fault == FaultKind::duplicate) {
            Message copy{message.kind, message.header, copy_of(message.payload.bytes)};
            // The copy is nobody's: whether it could be sent does not matter.
            static_cast<void>(inner_->send(peer, std::move(copy), deadline, [](const Result<void>&) {}));
        }
        Result<void> sent = inner_->send(peer, std::move(message), deadline, std::move(done));
        for (Held& held : overtaken) {
            let_go(std::move(held));
        }
        return sent;
    }

    void stop() override {
        {
            const std::scoped_lock lock(mutex_);
            if (is_stopped_) { return; }
            is_stopped_ = true;
        }
        if (thread_.joinable()) {
            thread_.request_stop();
            changed_.notify_all();
            thread_.join();
        }
        inner_->stop();
        for (Held& held : take([](const Held&) { return true; })) {
            held.message.payload = {};
            held.done(fail(ErrorCode::cancelled, "transport has stopped"));
        }
    }

    bool tick() override {
        const bool did = !plan_.own_thread && release_due();
        return inner_->tick() || did;
    }

private:
    struct Held {
        base::TimePoint due;
        bool vanishes;           // drop
        bool leaves_after_next;  // reorder
        PeerId peer;
        Message message;
        base::TimePoint deadline;
        Completion done;
    };

    /// The rule that strikes this message, if any. With the mutex.
    const FaultRule* strikes(MessageKind kind) {
        const FaultRule* chosen = nullptr;
        for (std::size_t i = 0; i < plan_.rules.size(); ++i) {
            const FaultRule& rule = plan_.rules[i];
            if (rule.message_kind && *rule.message_kind != kind) { continue; }
            ++seen_[i];
            const bool by_chance = std::uniform_real_distribution<>(0.0, 1.0)(random_) < rule.probability;
            if (chosen == nullptr && (by_chance || seen_[i] == rule.nth)) { chosen = &rule; }
        }
        return chosen;
    }

    /// Flips one bit: mostly in the payload, where there is one. With the mutex.
    void corrupt(Message& message) {
        const std::size_t payload_bytes = message.payload.bytes.size();
        if (payload_bytes > 0 && (message.header.empty() || random_() % 4 != 0)) {
            auto copy =
                std::make_shared<std::vector<std::byte>>(message.payload.bytes.begin(), message.payload.bytes.end());
            (*copy)[random_() % payload_bytes] ^= std::byte{1} << (random_() % 8);
            const std::span<const std::byte> view(*copy);
            message.payload = Payload{view, std::move(copy)};
        } else if (!message.header.empty()) {
            char& byte = message.header[random_() % message.header.size()];
            byte = static_cast<char>(static_cast<unsigned char>(byte) ^ (1u << (random_() % 8)));
        }
    }

    void hold(base::TimePoint due, bool vanishes, bool leaves_after_next, PeerId peer, Message message,
              base::TimePoint deadline, Completion done) {
        held_.push_back({due, vanishes, leaves_after_next, peer, std::move(message), deadline, std::move(done)});
        changed_.notify_all();
    }

    template <class Which>
    std::vector<Held> take(Which which) {
        std::vector<Held> taken;
        const std::scoped_lock lock(mutex_);
        for (auto held = held_.begin(); held != held_.end();) {
            if (which(*held)) {
                taken.push_back(std::move(*held));
                held = held_.erase(held);
            } else {
                ++held;
            }
        }
        return taken;
    }

    bool release_due() {
        const base::TimePoint now = clock_.now();
        std::vector<Held> due = take([&](const Held& held) { return held.due <= now; });
        for (Held& held : due) {
            let_go(std::move(held));
        }
        return !due.empty();
    }

    void let_go(Held held) {
        if (held.vanishes) {
            held.message.payload = {};
            held.done({});
            return;
        }
        const auto done = std::make_shared<Completion>(std::move(held.done));
        auto sent = inner_->send(held.peer, std::move(held.message), held.deadline,
                                 [done](Result<void> outcome) { (*done)(std::move(outcome)); });
        if (!sent) { (*done)(std::move(sent)); }
    }

    void run(std::stop_token stop) {
        while (!stop.stop_requested()) {
            release_due();
            std::unique_lock lock(mutex_);
            base::TimePoint until = clock_.now() + std::chrono::milliseconds(100);
            for (const Held& held : held_) {
                until = std::min(until, held.due);
            }
            if (until > clock_.now()) { changed_.wait_until(lock, until); }
        }
    }

    const std::unique_ptr<Transport> inner_;
    const FaultPlan plan_;
    const base::Clock& clock_;

    std::mutex mutex_;  // guards what follows
    std::condition_variable changed_;
    std::mt19937_64 random_;
    std::vector<std::uint64_t> seen_;  // messages that each rule looked at
    std::deque<Held> held_;
    bool is_stopped_ = false;

    std::jthread thread_;
};

}  // namespace

std::unique_ptr<Transport> make_fault_transport(std::unique_ptr<Transport> inner, FaultPlan plan,
                                                const base::Clock& clock) {
    return std::make_unique<FaultTransport>(std::move(inner), std::move(plan), clock);
}

}  // namespace net
