#include "cli/drain.h"

#include <chrono>
#include <cstdio>

#include "base/result.h"
#include "cli/process.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};

base::Result<proto::WorkerState> drain(const DrainCommand& command) {
    const auto id = parse_worker_number(command.worker, "--worker");
    if (!id) { return base::pass_on(id); }
    const auto cluster = operator_cluster(command.access);
    if (!cluster) { return base::pass_on(cluster); }
    return SchedulerAccess(command.access.schedulers, cluster->control()).drain(*id, 0, kTimeout);
}

}  // namespace

void add_drain(CLI::App& app, DrainCommand& command) {
    app.add_option("--worker", command.worker, "id of the worker, as the scheduler's log writes it")->required();
    add_operator_flags(app, command.access);
}

int drain_main(const DrainCommand& command) {
    const auto worker = drain(command);
    if (!worker) { return report(worker.error()); }
    std::printf("worker %s at %s takes no new requests; it had %u when it reported last\n", command.worker.c_str(),
                worker->endpoint().control_address().c_str(),
                worker->load().requests_running() + worker->load().requests_waiting());
    return 0;
}

}  // namespace cli
