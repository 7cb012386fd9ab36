#include "cli/worker_readiness.h"

#include <chrono>
#include <utility>

#include "cli/model/progress.h"

namespace cli {

void WorkerReadiness::at(std::uint64_t done, std::uint64_t total) {
    const std::scoped_lock lock(mutex_);
    if (!began_at_) { began_at_ = clock_.now(); }
    done_ = done;
    total_ = total;
}

void WorkerReadiness::started(std::function<gateway::ReadyParts()> parts) {
    const std::scoped_lock lock(mutex_);
    worker_ = std::move(parts);
}

gateway::ReadyParts WorkerReadiness::parts() const {
    const std::scoped_lock lock(mutex_);
    if (worker_) { return worker_(); }
    gateway::ReadyPart model{.name = "model", .is_ready = false, .words = "not begun to load"};
    if (began_at_) {
        const double seconds = std::chrono::duration<double>(clock_.now() - *began_at_).count();
        const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0;
        model.words = done_ < total_ ? model::progress_line("loading", done_, total_, rate)
                                     : "read; memory and kernels are made ready";
    }
    return {std::move(model)};
}

}  // namespace cli
