// A mixed worker whose steps take what it is told, whatever machine it runs on: the production step loop and service
// over an engine that waits instead of computing (overload.py).
//   timed_worker SCHEDULER MODEL CONTEXT_TOKENS VOCABULARY TOKEN PREFILL DECODE
// PREFILL and DECODE: the coefficients of base::StepCost, as STEP_US,TOKEN_US,CONTEXT_US; each step takes up to a tenth
// longer or shorter. The token is always TOKEN. With the cluster's key in SLUICE_CLUSTER_KEY. Prints "serving" when the
// scheduler knows it and ends with its stdin.
#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "worker/registration.h"
#include "worker/role_part.h"
#include "worker/run_steps.h"
#include "worker/service.h"
#include "worker/step_loop.h"

#include "tests/support/modelled_engine.h"

namespace {

constexpr double kNoise = 0.1;
constexpr std::uint32_t kBlocks = 16384;
constexpr std::uint32_t kBlockTokens = 16;
constexpr std::chrono::milliseconds kLook{1};
constexpr std::chrono::minutes kRegistrationMax{2};

/// A ModelledEngine on the real clock: a step has ended when its time has passed, and whoever launched it hears of it.
class WaitingEngine final : public engine::Engine {
public:
    WaitingEngine(const test_support::ModelledEngine::Options& options, const base::Clock& clock)
        : modelled_(options, clock), waits_([this](const std::stop_token& stop) { wait_for_steps(stop); }) {}

    const base::ModelShape& shape() const override { return modelled_.shape(); }
    const kv_cache::KvLayout& layout() const override { return modelled_.layout(); }
    kv_cache::KvStore& kv_store() override { return modelled_.kv_store(); }
    std::uint32_t blocks_total() const override { return modelled_.blocks_total(); }
    engine::NumericsId numerics_id() const override { return modelled_.numerics_id(); }
    std::string describe() const override { return modelled_.describe(); }

    engine::Ticket launch(engine::Batch batch, engine::LayersDone, engine::StepDone done) override {
        const engine::Ticket ticket = modelled_.launch(std::move(batch), {}, {});
        const std::scoped_lock lock(mutex_);
        running_ = Running{modelled_.ends_at(), std::move(done)};
        changed_.notify_all();
        return ticket;
    }
    bool ready(engine::Ticket) const override {
        const std::scoped_lock lock(mutex_);
        return !running_;
    }
    base::Result<engine::StepResult> collect(engine::Ticket ticket, base::TimePoint deadline,
                                             const std::stop_token& stop) override {
        std::unique_lock lock(mutex_);
        if (!changed_.wait_until(lock, stop, deadline, [this] { return !running_; })) {
            return base::fail(base::ErrorCode::deadline_exceeded, "the step goes on");
        }
        return modelled_.collect(ticket, deadline, stop);
    }
    base::Result<void> truncate(base::SequenceId sequence, std::uint32_t tokens) override {
        return modelled_.truncate(sequence, tokens);
    }

private:
    struct Running {
        base::TimePoint ends_at;
        engine::StepDone done;
    };

    void wait_for_steps(const std::stop_token& stop) {
        std::unique_lock lock(mutex_);
        while (changed_.wait(lock, stop, [this] { return running_.has_value(); })) {
            const base::TimePoint ends_at = running_->ends_at;
            if (std::chrono::steady_clock::now() < ends_at) {
                lock.unlock();
                std::this_thread::sleep_until(ends_at);
                lock.lock();
            }
            // Whoever is told may look at once, and collects only after this has returned.
            if (running_->done) { running_->done(); }
            running_.reset();
            changed_.notify_all();
        }
    }

    test_support::ModelledEngine modelled_;
    mutable std::mutex mutex_;  // guards the next
    std::optional<Running> running_;
    std::condition_variable_any changed_;
    std::jthread waits_;  // last: it uses all above
};

/// Seconds, of three numbers of microseconds with commas between them.
std::optional<std::array<double, 3>> seconds_of(std::string_view text) {
    std::array<double, 3> seconds{};
    const char* at = text.data();
    const char* const end = text.data() + text.size();
    for (std::size_t i = 0; i < seconds.size(); ++i) {
        if (i > 0 && (at == end || *at++ != ',')) { return std::nullopt; }
        const auto [next, error] = std::from_chars(at, end, seconds[i]);
        if (error != std::errc() || !(seconds[i] >= 0)) { return std::nullopt; }
        seconds[i] *= 1e-6;
        at = next;
    }
    return at == end ? std::optional(seconds) : std::nullopt;
}

std::uint64_t draw() {
    static std::random_device random;
    return (std::uint64_t{random()} << 32 | random()) | 1;
}

sluice::proto::RegisterWorker registration_of(const worker::WorkerIdentity& identity, const engine::Engine& engine,
                                              const worker::WorkerOptions& limits) {
    sluice::proto::RegisterWorker registration;
    *registration.mutable_header() = worker::make_header(identity);
    *registration.mutable_endpoint() = worker::make_endpoint(identity);
    registration.set_life_secret(std::to_string(draw()));
    registration.set_role(sluice::proto::WORKER_ROLE_MIXED);
    registration.set_kv_blocks_total(engine.blocks_total());
    registration.set_block_tokens(kBlockTokens);
    registration.set_kv_bytes_per_token(engine.layout().bytes_per_token());
    registration.set_context_tokens(engine.shape().context_tokens);
    registration.set_batch_sequences_max(limits.batch_sequences_max);
    registration.set_batch_tokens_max(limits.batch_tokens_max);
    registration.set_queue_requests_max(limits.queue_requests_max);
    registration.set_threads(1);
    return registration;
}

int fail(const std::string& what) {
    std::fprintf(stderr, "timed_worker: %s\n", what.c_str());
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    const char* const key_text = std::getenv("SLUICE_CLUSTER_KEY");
    const auto secret = base::parse_hash_key(key_text == nullptr ? "" : key_text);
    const auto prefill = argc == 8 ? seconds_of(argv[6]) : std::nullopt;
    const auto decode = argc == 8 ? seconds_of(argv[7]) : std::nullopt;
    if (!secret || !prefill || !decode) {
        std::fprintf(stderr,
                     "usage: SLUICE_CLUSTER_KEY=... timed_worker SCHEDULER MODEL CONTEXT_TOKENS VOCABULARY TOKEN "
                     "STEP_US,TOKEN_US,CONTEXT_US STEP_US,SEQUENCE_US,CONTEXT_US\n");
        return 2;
    }
    const proto::ClusterKey key(*secret);
    const base::SystemClock clock;
    base::Metrics metrics;
    const worker::WorkerOptions limits = worker::WorkerOptions::defaults(false);
    WaitingEngine engine({.cost = {.prefill = {(*prefill)[0], (*prefill)[1], (*prefill)[2]},
                                   .decode = {(*decode)[0], (*decode)[1], (*decode)[2]}},
                          .noise = kNoise,
                          .context_tokens = static_cast<std::uint32_t>(std::max(1, std::atoi(argv[3]))),
                          .blocks_total = kBlocks,
                          .vocabulary = static_cast<std::uint32_t>(std::max(1, std::atoi(argv[4]))),
                          .token = std::atoi(argv[5])},
                         clock);
    kv_cache::KvCache cache({.blocks_total = kBlocks, .block_tokens = kBlockTokens});
    worker::ReportBoard board;
    auto server = worker::WorkerServer::listen("127.0.0.1:0", limits, clock, key);
    if (!server) { return fail(server.error().message); }
    const worker::WorkerIdentity identity{.model = argv[2],
                                          .numerics_id = static_cast<std::uint64_t>(engine.numerics_id()),
                                          .worker = base::WorkerId{draw()},
                                          .incarnation = base::Incarnation{draw()},
                                          .control_address = "127.0.0.1:" + std::to_string((*server)->port()),
                                          .kv_address = {}};
    worker::RolePart whole;
    worker::StepLoop loop({.limits = limits,
                           .hash_key = *secret,
                           .model = identity.model,
                           .worker = "mixed-0",
                           .role = worker::Role::mixed},
                          engine, cache, **server, board, clock, metrics);
    loop.attach(worker::Part::whole, &whole);
    std::jthread steps([&](const std::stop_token& stop) { worker::run_steps(loop, stop); });
    (*server)->serve(identity, loop, board);
    {
        worker::Registration known(
            {argv[1]}, registration_of(identity, engine, limits), limits, board, clock, metrics, [] {}, key);
        const auto give_up = std::chrono::steady_clock::now() + kRegistrationMax;
        while (!known.is_registered()) {
            if (std::chrono::steady_clock::now() > give_up) {
                return fail("no scheduler at " + std::string(argv[1]) + " takes it");
            }
            std::this_thread::sleep_for(kLook);
        }
        std::printf("serving\n");
        std::fflush(stdout);
        while (std::fgetc(stdin) != EOF) {}
    }
    steps = {};  // gives the last final answers
    (*server)->stop();
    return 0;
}
