#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/metrics.h"
#include "kv_transfer/tier/s3_tier.h"

#include "tests/kv_transfer/tier_world.h"
#include "tests/support/catch.h"
#include "tests/support/s3_server.h"

// What the tests of the level in a store have in common.
namespace test_support {

inline const kv_transfer::S3Credentials kStoreCredentials{"AKEXAMPLE", "hidden/secret+word"};

/// A store, a pool, and levels between them.
struct S3World {
    explicit S3World(kv_cache::KvLayout layout = make_layout())
        : server("kv", kStoreCredentials), pool(device::host_device(), std::move(layout)) {}

    kv_transfer::S3Tier::Options options(std::uint32_t slots) const {
        const kv_transfer::S3Sealer sealer({}, 7, pool.layout.format().name(), pool.layout.block_bytes());
        kv_transfer::S3Tier::Options options;
        options.store.endpoint = server.endpoint();
        options.store.bucket = "kv";
        options.store.credentials = [] { return base::Result<kv_transfer::S3Credentials>(kStoreCredentials); };
        options.store.connections = 3;
        options.store.retries = 1;
        options.store.retry_wait = std::chrono::milliseconds(1);
        options.store.timeout = std::chrono::minutes(1);
        options.load_timeout = std::chrono::minutes(5);
        options.list_timeout = std::chrono::minutes(5);
        options.pause = std::chrono::seconds(5);
        options.bytes = slots * sealer.object_bytes();
        options.buffer_bytes = 70 * sealer.object_bytes();
        options.numerics_id = 7;
        options.layout = pool.layout.format().name();
        options.worker = "mixed-0";
        return options;
    }
    std::unique_ptr<kv_transfer::S3Tier> open(const kv_transfer::S3Tier::Options& with) {
        return kv_transfer::S3Tier::open(pool.store, with, clock, metrics).value();
    }
    std::unique_ptr<kv_transfer::S3Tier> open(std::uint32_t slots) { return open(options(slots)); }

    double figure(const std::string& line) const {
        const std::string text = metrics.text();
        const auto at = text.find("\n" + line + " ");
        return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 2));
    }
    double requests(const std::string& operation, const std::string& outcome) const {
        return figure("sluice_kv_s3_requests_total{operation=\"" + operation + "\",outcome=\"" + outcome + "\"}");
    }
    /// Until everything that waits has been sent, or has failed to be.
    void wait_sent() const {
        const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
        while (figure("sluice_kv_s3_waiting_blocks{worker=\"mixed-0\"}") != 0) {
            REQUIRE(std::chrono::steady_clock::now() < until);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    S3Server server;
    Pool pool;
    base::FakeClock clock;
    base::Metrics metrics;
};

/// Holds requests of one method until it is opened, or goes.
class Gate {
public:
    Gate() = default;
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    ~Gate() { open(); }
    std::function<S3Server::Fault(const S3Server::Call&)> of(std::string method) const {
        return [state = state_, method = std::move(method)](const S3Server::Call& call) {
            std::unique_lock lock(state->mutex);
            if (call.method == method) {
                state->changed.wait(lock, [&state] { return state->is_open; });
            }
            return S3Server::Fault::none;
        };
    }
    void open() const {
        const std::scoped_lock lock(state_->mutex);
        state_->is_open = true;
        state_->changed.notify_all();
    }

private:
    struct State {
        std::mutex mutex;
        std::condition_variable changed;
        bool is_open = false;
    };
    std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace test_support
