#pragma once

#include <stdlib.h>
#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "base/certificate_make.h"
#include "base/certificates.h"
#include "base/check.h"

namespace test_support {

/// Seconds of the UNIX epoch at which all of these certificates begin; the clock of tests starts a day later.
inline constexpr std::int64_t kCertified = 1'900'000'000;
inline constexpr std::int64_t kDay = 86'400;

inline base::IssuedCertificate new_authority(const std::string& name = "an authority") {
    return base::make_authority(name, {kCertified, kCertified + 1000 * kDay}).value();
}

inline base::IssuedCertificate certificate_of(const base::IssuedCertificate& authority, base::PeerRole role,
                                              std::int64_t days = 100, const std::string& cluster = "test") {
    return base::issue_certificate(authority, {{cluster, role, "one"}, {}, {kCertified, kCertified + days * kDay}})
        .value();
}

/// The files of one process, and its clock. Gone with this.
class CertificateFolder {
public:
    CertificateFolder(const base::IssuedCertificate& certificate, const std::string& authority_pem) {
        std::string name = (std::filesystem::temp_directory_path() / "certificates-XXXXXX").string();
        CHECK(mkdtemp(name.data()) != nullptr);
        folder = name;
        put(certificate, authority_pem);
    }
    ~CertificateFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }
    CertificateFolder(const CertificateFolder&) = delete;
    CertificateFolder& operator=(const CertificateFolder&) = delete;

    void write(const std::string& name, const std::string& text) const {
        // By a new file in its place, as those do that replace certificates.
        std::ofstream(folder / (name + ".new")) << text;
        CHECK(chmod((folder / (name + ".new")).c_str(), 0600) == 0);
        std::filesystem::rename(folder / (name + ".new"), folder / name);
    }
    void put(const base::IssuedCertificate& certificate, const std::string& authority_pem) const {
        write("tls.crt", certificate.certificate_pem);
        write("tls.key", certificate.private_key_pem);
        write("ca.crt", authority_pem);
    }
    base::CertificateFiles files() const { return {folder / "tls.crt", folder / "tls.key", folder / "ca.crt"}; }
    base::Result<std::shared_ptr<base::Certificates>> try_open() const {
        return base::Certificates::open(files(), [now = now] { return now->load(); });
    }
    std::shared_ptr<base::Certificates> open() const {
        auto opened = try_open();
        CHECK(opened.has_value(), opened.error().message);
        return *opened;
    }

    std::filesystem::path folder;
    std::shared_ptr<std::atomic<std::int64_t>> now = std::make_shared<std::atomic<std::int64_t>>(kCertified + kDay);
};

}  // namespace test_support
