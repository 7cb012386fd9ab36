#include "scheduler/leadership.h"

#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"

namespace scheduler {
namespace {

constexpr std::chrono::milliseconds kNewsPause(100);

}  // namespace

LeaderMetrics::LeaderMetrics(base::Metrics& metrics)
    : leads(metrics.gauge("sluice_scheduler_leads", "1 while this scheduler places requests, 0 while it stands by")),
      epoch(metrics.gauge("sluice_scheduler_epoch", "Fencing token that commands bear; 0 while it stands by")),
      terms(metrics.counter("sluice_scheduler_terms_total", "Times that this scheduler began to lead")),
      lease_errors(metrics.counter("sluice_scheduler_lease_errors_total", "Looks at the leader's lease that failed")) {}

Leadership::Leadership(Election::Options options, std::unique_ptr<LeaderLease> lease, const base::Clock& clock,
                       LeaderMetrics& metrics, std::function<void()> changed)
    : options_(std::move(options)),
      lease_(std::move(lease)),
      clock_(clock),
      metrics_(metrics),
      changed_(std::move(changed)),
      thread_([this](std::stop_token stop) { run(std::move(stop)); }) {}

Leadership::~Leadership() {
    stop();
}

Standing Leadership::standing() const {
    const std::scoped_lock lock(mutex_);
    return standing_;
}

void Leadership::tell(const Election::Told& told) {
    {
        const std::scoped_lock lock(mutex_);
        if (std::exchange(told_, told).workers == told.workers) { return; }
    }
    news_.notify_all();
}

void Leadership::stop() {
    thread_.request_stop();
    if (thread_.joinable()) { thread_.join(); }
}

void Leadership::run(std::stop_token stop) {
    Election election(options_, *lease_, clock_);
    const auto publish = [this](const Standing& now) {
        const std::scoped_lock lock(mutex_);
        return std::exchange(standing_, now);
    };
    while (!stop.stop_requested()) {
        Election::Told told;
        {
            const std::scoped_lock lock(mutex_);
            told = told_;
        }
        const Standing& now = election.step(told);
        const Standing before = publish(now);
        if (!election.problem().empty()) {
            metrics_.lease_errors.Increment();
            base::warn_limited("leader lease", "{}", election.problem());
        }
        if (now.serial != before.serial) {
            if (now.epoch != 0) {
                metrics_.terms.Increment();
                spdlog::info("leads from now on, epoch {}; the leader before had {} workers", now.epoch,
                             now.workers_before);
            } else {
                spdlog::warn("leads no more");
            }
            changed_();
        }
        if (now.epoch == 0 && !now.leader.empty() && now.leader != before.leader) {
            spdlog::info("stands by; the scheduler at {} leads", base::log_safe(now.leader));
        }
        const bool leads = now.epoch != 0;
        const auto pause = until_next_look(election, *lease_, options_.lease, clock_.now());
        std::unique_lock lock(mutex_);
        const bool has_news = news_.wait_for(lock, stop, pause, [&] { return leads && told_.workers != told.workers; });
        // More may come at once.
        if (has_news) {
            news_.wait_for(lock, stop, kNewsPause, [] { return false; });
        }
    }
    election.resign();
    publish(election.standing());
    changed_();
}

}  // namespace scheduler
