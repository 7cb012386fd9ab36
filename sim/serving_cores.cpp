// Workers that share the cores of one machine; the contract stands in serving.h.
#include <algorithm>
#include <utility>

#include "sim/serving_run.h"

namespace sim {
namespace {

constexpr double kDone = 2e-9;  // the clock counts whole nanoseconds

}  // namespace

void ServingRun::put_host_work(double seconds) {
    do_host_work();
    host_left_ += seconds;
    host_grew_ = true;
}

/// What has been done of it since it was last looked at.
void ServingRun::do_host_work() {
    host_left_ -= host_pace_ * seconds_of(clock_.now() - host_since_);
    if (host_left_ < kDone) { host_left_ = 0; }
    host_since_ = clock_.now();
}

/// Everybody who computes has an equal part of each core, and of the memory behind them: a step that begins or ends
/// changes when the others end.
void ServingRun::share_cores() {
    do_host_work();
    const bool hosts = host_left_ > 0;
    double threads = hosts ? 1 : 0;
    double prefilling = 0;
    double decoding = 0;
    for (const Node& node : nodes_) {
        if (!node.worker || !node.worker->runs_step()) { continue; }
        threads += node.pool->threads;
        (node.worker->prefills() ? prefilling : decoding) += 1;
    }
    const double share = threads > options_.cores ? options_.cores / threads : 1;
    const double host_pace = hosts ? share : 0;
    const bool is_otherwise = std::exchange(host_pace_, host_pace) != host_pace;
    if (std::exchange(host_grew_, false) || is_otherwise) {
        host_awaited_ = {};
        if (hosts) {
            host_awaited_ = clock_.now() + std::max(duration_of(host_left_ / share), base::Duration(1));
            push(host_awaited_, {.kind = Event::Kind::host_end, .key = {}});
        }
    }
    for (std::uint32_t index = 0; index < nodes_.size(); ++index) {
        Node& node = nodes_[index];
        if (!node.worker || !node.worker->runs_step()) { continue; }
        const bool prefills = node.worker->prefills();
        const double pace = share / options_.beside.slowness(prefills, share * (prefilling - (prefills ? 1 : 0)),
                                                             share * (decoding - (prefills ? 0 : 1)));
        if (node.pace == pace) { continue; }
        node.worker->stretch_step(clock_.now(), node.pace / pace);
        node.pace = pace;
        await_step(index);
    }
}

}  // namespace sim
