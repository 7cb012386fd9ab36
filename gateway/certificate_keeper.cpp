#include "gateway/certificate_keeper.h"

#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "base/certificate_times.h"
#include "base/log.h"
#include "base/log_limit.h"

namespace gateway {

CertificateKeeper::CertificateKeeper(Setup setup)
    : setup_(std::move(setup)), certificate_file_(setup_.certificate_file), key_file_(setup_.key_file) {}

base::Result<std::unique_ptr<CertificateKeeper>> CertificateKeeper::open(Setup setup) {
    auto keeper = std::unique_ptr<CertificateKeeper>(new CertificateKeeper(std::move(setup)));
    if (auto loaded = keeper->load(); !loaded) { return base::pass_on(loaded); }
    keeper->next_look_ = keeper->setup_.clock.now() + keeper->setup_.look_interval;
    return keeper;
}

base::Result<void> CertificateKeeper::load() {
    auto loaded = TlsCertificate::load(setup_.certificate_file, setup_.key_file);
    setup_.metrics
        .gauge("sluice_gateway_certificate_valid", "Whether the TLS certificate could be read when it changed last")
        .Set(loaded ? 1 : 0);
    if (!loaded) { return base::pass_on(loaded); }
    certificate_ = std::move(*loaded);
    setup_.metrics
        .gauge("sluice_gateway_certificate_expires_timestamp_seconds", "When the TLS certificate in use runs out")
        .Set(static_cast<double>(certificate_->expires_unix_s()));
    std::ifstream file(setup_.certificate_file, std::ios::binary);
    const std::string pem{std::istreambuf_iterator<char>(file), {}};  // OpenSSL has just read it, and found it sound
    setup_.metrics
        .gauge("sluice_gateway_certificate_starts_timestamp_seconds", "When the TLS certificate in use began to hold")
        .Set(static_cast<double>(base::certificate_starts_unix_s(pem)));
    return {};
}

base::TimePoint CertificateKeeper::tick(base::TimePoint now) {
    if (now < next_look_) { return next_look_; }
    next_look_ = now + setup_.look_interval;
    const bool certificate_changed = certificate_file_.changed();
    const bool key_changed = key_file_.changed();
    if (!certificate_changed && !key_changed) { return next_look_; }
    if (const auto loaded = load(); !loaded) {
        base::warn_limited("certificate", "{}: the one before stays in use", loaded.error().message);
    } else {
        spdlog::info("new connections get the certificate of {}", setup_.certificate_file);
    }
    return next_look_;
}

}  // namespace gateway
