#include "base/certificate_times.h"

#include <ctime>

#include "base/openssl_types.h"

namespace base {

std::int64_t certificate_starts_unix_s(std::string_view pem) {
    const OpensslText text = openssl_text(pem);
    const OpensslCertificate first(text == nullptr ? nullptr
                                                   : PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr));
    std::tm parts{};
    const bool is_there = first != nullptr && ASN1_TIME_to_tm(X509_get0_notBefore(first.get()), &parts) == 1;
    ERR_clear_error();
    return is_there ? static_cast<std::int64_t>(timegm(&parts)) : 0;
}

}  // namespace base
