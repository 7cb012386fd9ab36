#include "base/certificate_make.h"

#include <openssl/ec.h>
#include <openssl/rand.h>

#include "base/openssl_types.h"

namespace base {
namespace {

constexpr int kSerialBytes = 16;

auto failed(const char* what) {
    return fail(ErrorCode::internal, std::string("a certificate cannot be made: ") + what + ": " + openssl_words());
}

/// With the certificate that signs, so that its key can be named.
bool add_extension(X509* certificate, X509* issuer, int kind, const std::string& value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    const OpensslExtension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
    return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

bool set_serial(X509* certificate) {
    unsigned char bytes[kSerialBytes];
    if (RAND_bytes(bytes, kSerialBytes) != 1) { return false; }
    bytes[0] = static_cast<unsigned char>((bytes[0] & 0x3f) | 0x40);  // positive, and of full length
    const std::unique_ptr<BIGNUM, OpensslFree<BN_free>> number(BN_bin2bn(bytes, kSerialBytes, nullptr));
    return number != nullptr && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool fill(X509* certificate, EVP_PKEY* key, const std::string& name, const Validity& validity) {
    return X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate) &&
           ASN1_TIME_set(X509_getm_notBefore(certificate), validity.from_unix_s) != nullptr &&
           ASN1_TIME_set(X509_getm_notAfter(certificate), validity.until_unix_s) != nullptr &&
           X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(name.data()),
                                      static_cast<int>(name.size()), -1, 0) == 1 &&
           X509_set_pubkey(certificate, key) == 1;
}

Result<IssuedCertificate> written(X509* certificate, EVP_PKEY* key) {
    const OpensslText certificate_text(BIO_new(BIO_s_mem()));
    const OpensslText key_text(BIO_new(BIO_s_mem()));
    if (certificate_text == nullptr || key_text == nullptr ||
        PEM_write_bio_X509(certificate_text.get(), certificate) != 1 ||
        PEM_write_bio_PKCS8PrivateKey(key_text.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
        return failed("write");
    }
    return IssuedCertificate{openssl_string(certificate_text.get()), openssl_string(key_text.get())};
}

}  // namespace

Result<IssuedCertificate> make_authority(const std::string& name, const Validity& validity) {
    ERR_clear_error();
    const OpensslKey key(EVP_EC_gen("P-256"));
    const OpensslCertificate made(X509_new());
    if (key == nullptr || made == nullptr) { return failed("key"); }
    X509* const x509 = made.get();
    if (!fill(x509, key.get(), name, validity) || X509_set_issuer_name(x509, X509_get_subject_name(x509)) != 1 ||
        !add_extension(x509, x509, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(x509, x509, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(x509, x509, NID_subject_key_identifier, "hash") ||
        X509_sign(x509, key.get(), EVP_sha256()) <= 0) {
        return failed("authority");
    }
    return written(x509, key.get());
}

Result<IssuedCertificate> issue_certificate(const IssuedCertificate& authority, const CertificateRequest& request) {
    ERR_clear_error();
    const OpensslText authority_text = openssl_text(authority.certificate_pem);
    const OpensslText authority_key_text = openssl_text(authority.private_key_pem);
    const OpensslCertificate issuer(PEM_read_bio_X509(authority_text.get(), nullptr, nullptr, nullptr));
    const OpensslKey issuer_key(PEM_read_bio_PrivateKey(authority_key_text.get(), nullptr, nullptr, nullptr));
    if (issuer == nullptr || issuer_key == nullptr || X509_check_private_key(issuer.get(), issuer_key.get()) != 1 ||
        X509_check_ca(issuer.get()) == 0) {
        ERR_clear_error();
        return fail(ErrorCode::invalid_argument, "the authority is no certificate that may sign, with its key");
    }
    const std::string uri = peer_uri(request.peer);
    if (const auto parsed = parse_peer_uri(uri); !parsed) { return pass_on(parsed); }
    std::string names = "URI:" + uri;
    for (const std::string& name : request.other_names) {
        if (name.find_first_of(",;\n\r") != std::string::npos ||
            (!name.starts_with("DNS:") && !name.starts_with("IP:"))) {
            return fail(ErrorCode::invalid_argument,
                        "an alternative name is DNS:HOST or IP:ADDRESS, got '" + name + "'");
        }
        names += "," + name;
    }
    const OpensslKey key(EVP_EC_gen("P-256"));
    const OpensslCertificate made(X509_new());
    if (key == nullptr || made == nullptr) { return failed("key"); }
    X509* const x509 = made.get();
    const std::string common = std::string(peer_role_name(request.peer.role)) + " " + request.peer.name;
    if (!fill(x509, key.get(), common.substr(0, 64), request.validity) ||
        X509_set_issuer_name(x509, X509_get_subject_name(issuer.get())) != 1 ||
        !add_extension(x509, issuer.get(), NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(x509, issuer.get(), NID_key_usage, "critical,digitalSignature") ||
        !add_extension(x509, issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
        !add_extension(x509, issuer.get(), NID_subject_key_identifier, "hash") ||
        !add_extension(x509, issuer.get(), NID_authority_key_identifier, "keyid:always")) {
        return failed("certificate");
    }
    if (!add_extension(x509, issuer.get(), NID_subject_alt_name, names)) {
        return fail(ErrorCode::invalid_argument, "alternative names that are none: " + names + ": " + openssl_words());
    }
    if (X509_sign(x509, issuer_key.get(), EVP_sha256()) <= 0) { return failed("signature"); }
    return written(x509, key.get());
}

}  // namespace base
