#pragma once

#include <chrono>
#include <memory>
#include <stop_token>
#include <thread>

#include "base/certificates.h"
#include "base/metrics.h"

namespace cli {

/// Looks at the files of a process's certificate, on a thread of its own: what is new and right is used for new
/// connections; what is wrong is said once, and leaves the old in use. `sluice_certificate_valid`,
/// `sluice_certificate_expires_timestamp_seconds` and `sluice_certificate_changes_total` tell. Without a certificate it
/// does nothing, and exports nothing.
class CertificateWatch {
public:
    /// `certificates` may be null. `metrics` is borrowed.
    CertificateWatch(std::shared_ptr<base::Certificates> certificates, std::chrono::milliseconds interval,
                     base::Metrics& metrics);

private:
    std::jthread thread_;
};

}  // namespace cli
