#include "cli/certificate_watch.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include "base/certificate_times.h"
#include "base/log.h"
#include "base/log_limit.h"

namespace cli {

CertificateWatch::CertificateWatch(std::shared_ptr<base::Certificates> certificates, std::chrono::milliseconds interval,
                                   base::Metrics& metrics) {
    if (!certificates) { return; }
    auto& valid = metrics.gauge("sluice_certificate_valid",
                                "Whether the certificate between processes could be read when it changed last");
    auto& expires = metrics.gauge("sluice_certificate_expires_timestamp_seconds",
                                  "When the certificate between processes that is in use runs out");
    auto& starts = metrics.gauge("sluice_certificate_starts_timestamp_seconds",
                                 "When the certificate between processes that is in use began to hold");
    auto& changes = metrics.counter("sluice_certificate_changes_total",
                                    "Times that a new certificate between processes was taken into use");
    const auto tell = [&starts, &expires](const base::CertificateSet& set) {
        starts.Set(static_cast<double>(base::certificate_starts_unix_s(set.chain_pem())));
        expires.Set(static_cast<double>(set.expires_unix_s()));
    };
    valid.Set(1);
    tell(*certificates->current());
    spdlog::info("this process is {}", base::peer_uri(certificates->current()->self()));
    thread_ = std::jthread(
        [certificates = std::move(certificates), interval, tell, &valid, &changes](const std::stop_token& stop) {
            std::mutex mutex;
            std::condition_variable_any ended;
            std::unique_lock lock(mutex);
            while (true) {
                ended.wait_for(lock, stop, interval, [] { return false; });
                if (stop.stop_requested()) { return; }
                const auto looked = certificates->look();
                if (!looked) {
                    valid.Set(0);
                    spdlog::error("the certificate that was there before stays in use: {}",
                                  base::log_safe(looked.error().message, 1000));
                } else if (*looked) {
                    valid.Set(1);
                    const auto set = certificates->current();
                    tell(*set);
                    changes.Increment();
                    spdlog::info("new connections use the new certificate of {}", base::peer_uri(set->self()));
                }
                if (certificates->current()->expires_unix_s() <= certificates->now_unix_s()) {
                    base::warn_limited("certificate", "the certificate of {} has run out: others refuse it; renew it",
                                       base::peer_uri(certificates->current()->self()));
                }
            }
        });
}

}  // namespace cli
