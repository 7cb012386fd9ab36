#include "cli/drain.h"

#include <chrono>
#include <cstdio>

#include "base/result.h"
#include "cli/process.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kTimeout{10};

base::Result<void> drain(const DrainCommand& command) {
    if (!command.lists && command.worker.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "which worker: `sluice drain WORKER`, or --list for all of them");
    }
    const auto cluster = operator_cluster(command.access);
    if (!cluster) { return base::pass_on(cluster); }
    SchedulerAccess scheduler(command.access.schedulers, cluster->control());
    const auto workers = scheduler.describe(kTimeout);
    if (!workers) { return base::pass_on(workers); }
    if (command.lists && command.json) {
        std::printf("%s\n", json_of_workers(*workers).c_str());
        return {};
    }
    if (command.lists) {
        const std::string list = list_of_workers(*workers);
        std::fputs(list.empty() ? "there is no worker\n" : list.c_str(), stdout);
        return {};
    }
    const auto chosen = choose_worker(*workers, command.worker);
    if (!chosen) { return base::pass_on(chosen); }
    // That life, and no other that may have come in its place meanwhile.
    const auto worker = scheduler.drain(chosen->endpoint().worker_id(), chosen->endpoint().incarnation(), kTimeout);
    if (!worker) { return base::pass_on(worker); }
    std::printf("worker %016llx at %s takes no new requests; it had %u when it reported last\n",
                static_cast<unsigned long long>(worker->endpoint().worker_id()),
                worker->endpoint().control_address().c_str(),
                worker->load().requests_running() + worker->load().requests_waiting());
    return {};
}

}  // namespace

void add_drain(CLI::App& app, DrainCommand& command) {
    auto* const worker = app.add_option("WORKER,--worker", command.worker, kWorkerHelp);
    auto* const list =
        app.add_flag("--list", command.lists, "tells which workers there are, and drains none")->excludes(worker);
    app.add_flag("--json", command.json, "with --list: as JSON")->needs(list);
    add_operator_flags(app, command.access);
}

int drain_main(const DrainCommand& command) {
    const auto done = drain(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
