#pragma once

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/peer_role.h"
#include "base/result.h"

struct x509_st;        // X509 of OpenSSL
struct stack_st_X509;  // STACK_OF(X509)
struct x509_store_st;  // X509_STORE

namespace base {

/// PEM files by which a process shows who it is, and knows who others are.
struct CertificateFiles {
    std::string certificate;  // with its chain, the own one first
    std::string key;          // that others cannot read
    std::string authority;    // certificates of who may sign; several while one replaces another
};

/// What the other end of a connection is in it.
enum class PeerSide { client, server };

/// A certificate, its key, and the authorities, read and checked together. Never changes; thread-safe.
class CertificateSet {
public:
    /// Errors: invalid_argument (a file that is not what it should be, a key of another certificate, a certificate that
    /// the authorities have not signed, that has run out, or that says no role), permission_denied (a key that others
    /// can read).
    static Result<std::shared_ptr<const CertificateSet>> read(const CertificateFiles& files, std::int64_t now_unix_s);

    /// Who we are.
    const PeerName& self() const { return self_; }
    /// When the first certificate of our chain runs out.
    std::int64_t expires_unix_s() const { return expires_unix_s_; }
    /// Key and chain, as libraries take them.
    const std::string& identity_pem() const { return identity_pem_; }
    const std::string& key_pem() const { return key_pem_; }
    const std::string& chain_pem() const { return chain_pem_; }

    /// Who shows `leaf` (null: nothing), with `others` that may lead from it to an authority (null: none). That he has
    /// its key, TLS has checked. Errors, each with what is wrong and what to do: unauthenticated (no certificate, of
    /// another authority, too old or too new, without a role), permission_denied (of another cluster).
    Result<PeerName> verify(x509_st* leaf, stack_st_X509* others, PeerSide side, std::int64_t now_unix_s) const;
    /// The same for PEM texts; empty: none.
    Result<PeerName> verify(std::string_view leaf_pem, std::string_view others_pem, PeerSide side,
                            std::int64_t now_unix_s) const;

private:
    CertificateSet() = default;

    PeerName self_;
    std::int64_t expires_unix_s_ = 0;
    std::string identity_pem_;
    std::string key_pem_;
    std::string chain_pem_;
    std::string authority_file_;  // for messages
    std::shared_ptr<x509_store_st> store_;
};

/// The certificates of a running process: read again when a file changes. What is wrong (also a certificate whose key
/// is not there yet) leaves those before in use. Thread-safe.
class Certificates {
public:
    using Now = std::function<std::int64_t()>;  // seconds of the UNIX epoch; thread-safe
    static std::int64_t system_now();

    /// Errors of CertificateSet::read; unavailable (no /proc, no memory files).
    static Result<std::shared_ptr<Certificates>> open(CertificateFiles files, Now now = system_now);
    ~Certificates();
    Certificates(const Certificates&) = delete;
    Certificates& operator=(const Certificates&) = delete;

    std::shared_ptr<const CertificateSet> current() const;
    /// Rises with every change of what is in use.
    std::uint64_t generation() const;
    /// Whether the files hold something new, which is then in use. Errors of CertificateSet::read: those before stay.
    /// A role or a cluster other than before is refused, too: the process was started as what it is.
    Result<bool> look();

    /// Who shows these (PEM; empty: nothing), now, by what is in use. Errors of CertificateSet::verify.
    Result<PeerName> verify(std::string_view leaf_pem, std::string_view others_pem, PeerSide side) const;
    std::int64_t now_unix_s() const { return now_(); }

    /// A path in memory, of this process alone, at which key and chain in use always are, whole: for a library that
    /// takes files and looks at them itself. Holds as long as this object.
    const std::string& identity_path() const { return identity_path_; }

private:
    Certificates(CertificateFiles files, Now now);
    using Seen = std::array<struct ::stat, 3>;
    Seen look_at_files() const;
    Result<void> publish(const CertificateSet& set);

    const CertificateFiles files_;
    const Now now_;
    mutable std::mutex mutex_;  // guards what follows
    Seen seen_{};
    std::shared_ptr<const CertificateSet> current_;
    std::uint64_t generation_ = 0;
    int identity_file_ = -1;
    std::string identity_path_;  // set once
};

}  // namespace base
