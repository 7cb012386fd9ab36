#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/file_watch.h"
#include "gateway/http/tls_session.h"

namespace gateway {

/// The certificate of a running gateway. Reads the files again when one has changed; new connections get the new one.
/// What is wrong (also a new certificate whose key is not there yet) leaves the old one, and says so in the log and in
/// sluice_gateway_certificate_valid. I/O thread only.
class CertificateKeeper {
public:
    struct Setup {
        std::string certificate_file;
        std::string key_file;
        base::Duration look_interval = std::chrono::seconds(1);
        const base::Clock& clock;  // borrowed, as metrics
        base::Metrics& metrics;
    };
    /// Errors of TlsCertificate::load.
    static base::Result<std::unique_ptr<CertificateKeeper>> open(Setup setup);

    const std::shared_ptr<const TlsCertificate>& certificate() const { return certificate_; }
    /// Looks at the files when that is due; when the next look is.
    base::TimePoint tick(base::TimePoint now);

private:
    explicit CertificateKeeper(Setup setup);
    base::Result<void> load();

    Setup setup_;
    FileWatch certificate_file_;
    FileWatch key_file_;
    std::shared_ptr<const TlsCertificate> certificate_;
    base::TimePoint next_look_{};
};

}  // namespace gateway
