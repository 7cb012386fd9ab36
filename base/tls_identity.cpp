#include "base/tls_identity.h"

#include <string_view>

#include "base/openssl_types.h"
#include "base/seal.h"

namespace base {
namespace {

constexpr std::string_view kPurpose = "sluice tls identity 1";
constexpr const char* kFrom = "20000101000000Z";
constexpr const char* kUntil = "99991231235959Z";  // RFC 5280, 4.1.2.5: no date to run out at

bool add_extension(X509* certificate, int kind, const std::string& value) {
    const OpensslExtension extension(X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str()));
    return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

/// Nothing in it is drawn or read from a clock, and Ed25519 signs without chance: the same key, the same bytes.
OpensslCertificate make_certificate(EVP_PKEY* key) {
    OpensslCertificate certificate(X509_new());
    if (certificate == nullptr) { return nullptr; }
    X509* const x509 = certificate.get();
    const std::string name = TlsIdentity::kName;
    X509_NAME* const subject = X509_get_subject_name(x509);
    const bool made =
        X509_set_version(x509, X509_VERSION_3) == 1 && ASN1_INTEGER_set(X509_get_serialNumber(x509), 1) == 1 &&
        ASN1_TIME_set_string_X509(X509_getm_notBefore(x509), kFrom) == 1 &&
        ASN1_TIME_set_string_X509(X509_getm_notAfter(x509), kUntil) == 1 &&
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(name.data()),
                                   static_cast<int>(name.size()), -1, 0) == 1 &&
        X509_set_issuer_name(x509, subject) == 1 && X509_set_pubkey(x509, key) == 1 &&
        add_extension(x509, NID_subject_alt_name, "DNS:" + name) &&
        add_extension(x509, NID_ext_key_usage, "serverAuth,clientAuth") && X509_sign(x509, key, nullptr) > 0;
    return made ? std::move(certificate) : nullptr;
}

}  // namespace

Result<TlsIdentity> derive_tls_identity(const HashKey& key) {
    const Mac seed = make_mac(key, kPurpose, {});
    const OpensslKey made(EVP_PKEY_new_raw_private_key(
        EVP_PKEY_ED25519, nullptr, reinterpret_cast<const unsigned char*>(seed.data()), seed.size()));
    const OpensslCertificate certificate = made == nullptr ? nullptr : make_certificate(made.get());
    const OpensslText certificate_text(BIO_new(BIO_s_mem()));
    const OpensslText key_text(BIO_new(BIO_s_mem()));
    if (certificate == nullptr || certificate_text == nullptr || key_text == nullptr ||
        PEM_write_bio_X509(certificate_text.get(), certificate.get()) != 1 ||
        PEM_write_bio_PrivateKey(key_text.get(), made.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1) {
        return fail(ErrorCode::internal,
                    "this machine's OpenSSL makes no Ed25519 certificate (a FIPS provider alone?), so there is no TLS "
                    "between the processes; where the network is trusted, cluster.trusted_network does without");
    }
    return TlsIdentity{openssl_string(certificate_text.get()), openssl_string(key_text.get())};
}

}  // namespace base
