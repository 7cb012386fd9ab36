#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/ids.h"
#include "base/linear_fit.h"
#include "base/step_fit.h"
#include "proto/scheduler.pb.h"
#include "scheduler/cluster_view.h"
#include "scheduler/costs.h"

namespace scheduler {

/// Predicts what prefill, decode and hand-off take on each worker, from what the workers report. Not thread-safe.
///
/// One set of linear fits per worker, one per role, and a prior. A worker's own fit counts once it has
/// base::LinearFit::kSamplesNeeded samples, until then that of its role, until then the prior. A fit is replaced as a
/// whole (prefill, decode and transfer each on their own). The fits of roles outlive workers.
class Predictor {
public:
    Predictor();

    /// What one step teaches (base::StepFit): measured / predicted of the worker's own fit.
    base::StepFit::Ratios observe_step(base::WorkerId worker, Role role, const sluice::proto::StepSample& sample);
    /// What a hand-off teaches that `worker` received; nothing where it could only have sent it (protocol up to 1.7).
    std::optional<double> observe_transfer(base::WorkerId worker, Role role,
                                           const sluice::proto::TransferSample& sample);

    /// What to expect of a worker; one that was never observed is predicted by its role.
    Costs costs(base::WorkerId worker, Role role) const;
    /// Drops what was learned about one worker; its role keeps it.
    void forget(base::WorkerId worker);
    std::size_t workers() const { return workers_.size(); }

private:
    /// Of the steps that decoded lately; older ones fade.
    struct Mix {
        double steps = 0;
        double mixed_steps = 0;
        double mixed_seconds = 0;
        void note(const base::StepWork& work, double seconds);
        /// `ratio` is the fit's.
        MixedSteps mean(double ratio) const;
    };
    struct Fits {
        Fits();
        base::StepFit step;
        base::LinearFit transfer;
        Mix mix;
    };
    const base::StepFit& prefill_of_role(Role role) const;
    Fits& of_role(Role role) { return roles_[static_cast<std::size_t>(role)]; }

    std::unordered_map<base::WorkerId, Fits> workers_;
    std::array<Fits, proto::kRoles> roles_;
    base::LinearFit transfer_everywhere_;  // where nobody of a role has received anything
};

}  // namespace scheduler
