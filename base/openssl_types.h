#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

namespace base {

/// OpenSSL's objects by their owners. For .cpp files alone: nothing of OpenSSL is in our headers.
template <auto free>
struct OpensslFree {
    template <class T>
    void operator()(T* held) const {
        free(held);
    }
};
using OpensslKey = std::unique_ptr<EVP_PKEY, OpensslFree<EVP_PKEY_free>>;
using OpensslCertificate = std::unique_ptr<X509, OpensslFree<X509_free>>;
using OpensslText = std::unique_ptr<BIO, OpensslFree<BIO_free_all>>;
using OpensslExtension = std::unique_ptr<X509_EXTENSION, OpensslFree<X509_EXTENSION_free>>;
using OpensslNames = std::unique_ptr<GENERAL_NAMES, OpensslFree<GENERAL_NAMES_free>>;

/// Borrows `text`.
inline OpensslText openssl_text(std::string_view text) {
    return OpensslText(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}
/// What was written to a memory BIO.
inline std::string openssl_string(BIO* bio) {
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(bytes)};
}
/// What OpenSSL has to say, and nothing left of it for who asks next.
inline std::string openssl_words() {
    const unsigned long code = ERR_get_error();
    ERR_clear_error();
    const char* const reason = code == 0 ? nullptr : ERR_reason_error_string(code);
    return reason != nullptr ? reason : "error " + std::to_string(code);
}

}  // namespace base
