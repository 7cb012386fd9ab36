#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/step_cost.h"
#include "scheduler/scheduler.h"
#include "worker/options.h"

namespace test_support {

/// What clients ask of a modelled cluster. Times are in seconds from its start.
struct ModelledRequest {
    double at = 0;
    std::uint32_t prompt_tokens = 512;
    std::uint32_t answer_tokens = 64;      // that it ends with
    std::uint32_t answer_tokens_told = 0;  // max_tokens; 0: answer_tokens
    double ttft_seconds = 1.0;
    double tpot_seconds = 0.020;
    std::string tenant = {};
    std::string slo_class = {};
};

/// What became of one.
struct ModelledOutcome {
    bool is_refused = false;
    double retry_after_seconds = 0;  // of the last refusal
    int attempts = 0;
    double predicted_ttft = 0;
    double predicted_tpot = 0;
    double arrived = 0;  // its last attempt
    double ttft = 0;     // from the first attempt on
    double tpot = 0;
    double gap_max = 0;
    double ended = 0;
    bool meets(const ModelledRequest& request) const {
        return !is_refused && ttft <= request.ttft_seconds && tpot <= request.tpot_seconds;
    }
};

/// What a client does that was refused.
enum class OnRefusal { give_up, wait_as_told, come_back_at_once };

/// The production scheduler and the production step loops of mixed workers, over engines whose steps take what a model
/// says, on a virtual clock: no sockets, no threads, the same result on every machine.
class ModelledCluster {
public:
    struct Options {
        int workers = 1;
        base::StepCost cost;
        double noise = 0.1;
        std::uint32_t seed = 1;
        scheduler::SchedulerOptions scheduler = {};
        worker::WorkerOptions limits = {};
        bool tell_targets = true;  // clients name their targets
        OnRefusal on_refusal = OnRefusal::give_up;
        int attempts_max = 20;
    };
    explicit ModelledCluster(const Options& options);
    ~ModelledCluster();

    /// Plays them to their ends. `requests`: in order of `at`. Can be called again: what was learned stays.
    std::vector<ModelledOutcome> run(const std::vector<ModelledRequest>& requests);
    base::Metrics& metrics() { return metrics_; }
    /// Steps of all workers take so many times what the cost says, from now on.
    void slow_down(double factor);
    /// Those with prompts and decodes in them besides.
    void slow_down_mixed(double factor);

private:
    struct Worker;
    struct Run;
    void heartbeat(Worker& worker);
    bool ask(Run& run, std::size_t index, double now);

    const Options options_;
    base::FakeClock clock_;
    base::Metrics metrics_;
    scheduler::Scheduler scheduler_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::uint64_t next_request_ = 1;
    base::TimePoint next_heartbeat_;
};

/// Poisson arrivals of equal requests at `rate` a second.
std::vector<ModelledRequest> poisson(double rate, std::size_t count, std::uint32_t seed, const ModelledRequest& like);

}  // namespace test_support
