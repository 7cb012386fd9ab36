#include "base/certificates.h"

#include <fcntl.h>
#include <openssl/x509_vfy.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/openssl_types.h"

namespace base {
namespace {

constexpr std::size_t kFileBytesMax = 1 << 18;
constexpr std::size_t kChainMax = 8;  // certificates that one end may show
constexpr std::size_t kAuthoritiesMax = 64;

Result<std::string> read_pem(const std::string& path, const char* what) {
    std::ifstream file(path, std::ios::binary);
    std::string text(kFileBytesMax, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (!file.eof()) {
        return fail(ErrorCode::invalid_argument, std::string(what) + " " + path +
                                                     (file.is_open() && text.size() == kFileBytesMax
                                                          ? " is too long"
                                                          : std::string(" cannot be read: ") + std::strerror(errno)));
    }
    return text;
}

/// All certificates of a PEM text, in its order; none where there are more than `most`.
std::vector<OpensslCertificate> certificates_of(std::string_view pem, std::size_t most) {
    std::vector<OpensslCertificate> all;
    const OpensslText text = openssl_text(pem);
    while (text != nullptr) {
        OpensslCertificate next(PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr));
        if (next == nullptr) { break; }
        if (all.size() == most) {
            all.clear();
            break;
        }
        all.push_back(std::move(next));
    }
    ERR_clear_error();  // the end of the text is an error to OpenSSL
    return all;
}

std::string name_text(const X509_NAME* name) {
    const OpensslText text(BIO_new(BIO_s_mem()));
    if (text == nullptr || X509_NAME_print_ex(text.get(), name, 0, XN_FLAG_ONELINE) < 0) { return "?"; }
    return openssl_string(text.get()).substr(0, 200);
}

std::int64_t unix_of(const ASN1_TIME* time) {
    std::tm parts{};
    if (ASN1_TIME_to_tm(time, &parts) != 1) { return 0; }
    return timegm(&parts);
}

std::string time_text(std::int64_t unix_s) {
    const std::time_t time = unix_s;
    std::tm parts{};
    gmtime_r(&time, &parts);
    char text[32];
    return {text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts)};
}

/// The one name that says who the bearer is.
Result<PeerName> peer_of(const X509* certificate) {
    const OpensslNames names(
        static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
    std::optional<Result<PeerName>> found;
    for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
        const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
        if (name->type != GEN_URI) { continue; }
        const ASN1_IA5STRING* const uri = name->d.uniformResourceIdentifier;
        const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                                    static_cast<std::size_t>(ASN1_STRING_length(uri)));
        if (!text.starts_with(kPeerScheme)) { continue; }
        if (found) { return fail(ErrorCode::unauthenticated, "the certificate says two roles"); }
        found = parse_peer_uri(text);
    }
    if (!found) {
        return fail(ErrorCode::unauthenticated,
                    "the certificate says no role: it needs the URI sluice://CLUSTER/ROLE/NAME among its alternative "
                    "names (sluice certs make)");
    }
    if (!*found) { return fail(ErrorCode::unauthenticated, "the certificate says no role: " + found->error().message); }
    return *found;
}

/// Why a chain does not hold, and what to do.
std::string why_not(int error, const X509* leaf, const std::string& authority_file) {
    const std::string who = "the certificate of " + name_text(X509_get_subject_name(leaf));
    switch (error) {
        case X509_V_ERR_CERT_HAS_EXPIRED:
            return who + " has run out at " + time_text(unix_of(X509_get0_notAfter(leaf))) +
                   " (or that of its authority): renew it (sluice certs make --authority)";
        case X509_V_ERR_CERT_NOT_YET_VALID:
            return who + " is valid from " + time_text(unix_of(X509_get0_notBefore(leaf))) +
                   " on (or that of its authority): is the clock right?";
        case X509_V_ERR_INVALID_PURPOSE:
            return who + " may not be used for this side of TLS: it needs serverAuth and clientAuth";
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
        case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
        case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        case X509_V_ERR_AKID_SKID_MISMATCH:
            return who + " is of another authority (" + name_text(X509_get_issuer_name(leaf)) +
                   "): those that are accepted here are in " + authority_file + " (cluster.authority_file)";
        default:
            return who + " is not accepted: " + X509_verify_cert_error_string(error);
    }
}

}  // namespace

Result<std::shared_ptr<const CertificateSet>> CertificateSet::read(const CertificateFiles& files,
                                                                   std::int64_t now_unix_s) {
    const auto invalid = [](std::string message) { return fail(ErrorCode::invalid_argument, std::move(message)); };
    struct ::stat about{};
    if (::stat(files.key.c_str(), &about) == 0 && (about.st_mode & (S_IWGRP | S_IRWXO)) != 0) {
        return fail(ErrorCode::permission_denied, "the key of the certificate, " + files.key +
                                                      ", can be read or changed by others: chmod 600 " + files.key);
    }
    const auto chain = read_pem(files.certificate, "the certificate");
    if (!chain) { return pass_on(chain); }
    const auto key_text = read_pem(files.key, "the key of the certificate");
    if (!key_text) { return pass_on(key_text); }
    const auto authority = read_pem(files.authority, "the certificate of the authority");
    if (!authority) { return pass_on(authority); }

    ERR_clear_error();
    const auto certificates = certificates_of(*chain, kChainMax);
    if (certificates.empty()) { return invalid(files.certificate + " holds no certificate, or too many (PEM)"); }
    const OpensslText text = openssl_text(*key_text);
    const OpensslKey key(text == nullptr ? nullptr
                                         : PEM_read_bio_PrivateKey(
                                               text.get(), nullptr, [](char*, int, int, void*) { return 0; }, nullptr));
    if (key == nullptr) {
        return invalid(files.key + " holds no private key without a password (PEM): " + openssl_words());
    }
    if (X509_check_private_key(certificates.front().get(), key.get()) != 1) {
        ERR_clear_error();
        return invalid(files.key + " is the key of another certificate than " + files.certificate);
    }
    const auto authorities = certificates_of(*authority, kAuthoritiesMax);
    std::shared_ptr<X509_STORE> store(X509_STORE_new(), X509_STORE_free);
    if (authorities.empty() || store == nullptr) {
        return invalid(files.authority + " holds no certificate of an authority, or too many (PEM)");
    }
    for (const OpensslCertificate& one : authorities) {
        X509_STORE_add_cert(store.get(), one.get());
    }
    ERR_clear_error();

    auto set = std::shared_ptr<CertificateSet>(new CertificateSet());
    set->store_ = std::move(store);
    set->authority_file_ = files.authority;
    set->key_pem_ = *key_text;
    set->chain_pem_ = *chain;
    set->identity_pem_ = *key_text + "\n" + *chain;
    set->expires_unix_s_ = unix_of(X509_get0_notAfter(certificates.front().get()));
    for (const OpensslCertificate& one : certificates) {
        set->expires_unix_s_ = std::min(set->expires_unix_s_, unix_of(X509_get0_notAfter(one.get())));
    }
    // What others would refuse is not shown to them.
    for (const PeerSide side : {PeerSide::client, PeerSide::server}) {
        const auto self = set->verify(*chain, *chain, side, now_unix_s);
        if (!self) { return invalid(files.certificate + ": " + self.error().message); }
        set->self_ = *self;
    }
    return std::shared_ptr<const CertificateSet>(std::move(set));
}

Result<PeerName> CertificateSet::verify(x509_st* leaf, stack_st_X509* others, PeerSide side,
                                        std::int64_t now_unix_s) const {
    if (leaf == nullptr) {
        return fail(ErrorCode::unauthenticated,
                    "no certificate is shown: give the process one of its role (cluster.certificate_file, "
                    "certificate_key_file, authority_file; sluice certs make)");
    }
    const std::unique_ptr<X509_STORE_CTX, OpensslFree<X509_STORE_CTX_free>> context(X509_STORE_CTX_new());
    if (context == nullptr || X509_STORE_CTX_init(context.get(), store_.get(), leaf, others) != 1) {
        return fail(ErrorCode::internal, "a certificate cannot be checked: " + openssl_words());
    }
    X509_VERIFY_PARAM* const rules = X509_STORE_CTX_get0_param(context.get());
    X509_VERIFY_PARAM_set_time(rules, now_unix_s);
    X509_VERIFY_PARAM_set_depth(rules, static_cast<int>(kChainMax));
    X509_VERIFY_PARAM_set_purpose(rules, side == PeerSide::client ? X509_PURPOSE_SSL_CLIENT : X509_PURPOSE_SSL_SERVER);
    const bool holds = X509_verify_cert(context.get()) == 1;
    const int error = X509_STORE_CTX_get_error(context.get());
    ERR_clear_error();
    if (!holds) { return fail(ErrorCode::unauthenticated, why_not(error, leaf, authority_file_)); }
    auto peer = peer_of(leaf);
    if (!peer) { return pass_on(peer); }
    if (!self_.cluster.empty() && peer->cluster != self_.cluster) {
        return fail(ErrorCode::permission_denied, peer_uri(*peer) + " is of another cluster than " + peer_uri(self_));
    }
    return peer;
}

Result<PeerName> CertificateSet::verify(std::string_view leaf_pem, std::string_view others_pem, PeerSide side,
                                        std::int64_t now_unix_s) const {
    auto leaf = certificates_of(leaf_pem, kChainMax);
    auto others = certificates_of(others_pem, kChainMax);
    const auto free_stack = [](STACK_OF(X509) * held) { sk_X509_free(held); };
    const std::unique_ptr<STACK_OF(X509), decltype(free_stack)> stack(sk_X509_new_null(), free_stack);
    for (const OpensslCertificate& one : others) {
        if (stack != nullptr) { sk_X509_push(stack.get(), one.get()); }
    }
    return verify(leaf.empty() ? nullptr : leaf.front().get(), stack.get(), side, now_unix_s);
}

std::int64_t Certificates::system_now() {
    return SystemClock().unix_us() / 1'000'000;
}

Certificates::Certificates(CertificateFiles files, Now now) : files_(std::move(files)), now_(std::move(now)) {}

Certificates::~Certificates() {
    if (identity_file_ >= 0) { ::close(identity_file_); }
}

Result<std::shared_ptr<Certificates>> Certificates::open(CertificateFiles files, Now now) {
    auto made = std::shared_ptr<Certificates>(new Certificates(std::move(files), std::move(now)));
    made->seen_ = made->look_at_files();
    auto set = CertificateSet::read(made->files_, made->now_());
    if (!set) { return pass_on(set); }
    if (auto published = made->publish(**set); !published) { return pass_on(published); }
    made->current_ = std::move(*set);
    made->generation_ = 1;
    return made;
}

Certificates::Seen Certificates::look_at_files() const {
    Seen seen{};
    const std::array<const std::string*, 3> paths{&files_.certificate, &files_.key, &files_.authority};
    for (std::size_t i = 0; i < paths.size(); ++i) {
        if (::stat(paths[i]->c_str(), &seen[i]) != 0) { seen[i] = {}; }
    }
    return seen;
}

/// A new file takes the old one's number at once, so that whoever opens the path finds either whole.
Result<void> Certificates::publish(const CertificateSet& set) {
    const auto failed = [](const char* what) {
        return fail(ErrorCode::unavailable, std::string("the certificate cannot be kept in a file in memory: ") + what +
                                                ": " + std::strerror(errno));
    };
    const int fresh = memfd_create("sluice-certificate", MFD_CLOEXEC);
    if (fresh < 0) { return failed("memfd_create"); }
    const std::string& text = set.identity_pem();
    const bool is_written =
        fchmod(fresh, 0600) == 0 && write(fresh, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    // gRPC tells by the seconds whether the file that it reads twice is the same.
    const std::array<timespec, 2> times{
        {{static_cast<std::time_t>(generation_ + 1), 0}, {static_cast<std::time_t>(generation_ + 1), 0}}};
    if (!is_written || futimens(fresh, times.data()) != 0) {
        ::close(fresh);
        return failed("write");
    }
    if (identity_file_ >= 0) {
        const bool is_replaced = dup3(fresh, identity_file_, O_CLOEXEC) >= 0;
        ::close(fresh);
        return is_replaced ? Result<void>() : failed("dup3");
    }
    identity_file_ = fresh;
    identity_path_ = "/proc/self/fd/" + std::to_string(fresh);
    if (access(identity_path_.c_str(), R_OK) != 0) { return failed(identity_path_.c_str()); }
    return {};
}

std::shared_ptr<const CertificateSet> Certificates::current() const {
    const std::scoped_lock lock(mutex_);
    return current_;
}

std::uint64_t Certificates::generation() const {
    const std::scoped_lock lock(mutex_);
    return generation_;
}

Result<bool> Certificates::look() {
    const std::scoped_lock lock(mutex_);
    const Seen now = look_at_files();
    const auto same = [](const struct ::stat& one, const struct ::stat& other) {
        const auto equal = [](const timespec& left, const timespec& right) {
            return left.tv_sec == right.tv_sec && left.tv_nsec == right.tv_nsec;
        };
        return one.st_ino == other.st_ino && one.st_size == other.st_size && equal(one.st_mtim, other.st_mtim) &&
               equal(one.st_ctim, other.st_ctim);
    };
    if (same(now[0], seen_[0]) && same(now[1], seen_[1]) && same(now[2], seen_[2])) { return false; }
    seen_ = now;
    auto set = CertificateSet::read(files_, now_());
    if (!set) { return pass_on(set); }
    const PeerName& before = current_->self();
    if ((*set)->self().role != before.role || (*set)->self().cluster != before.cluster) {
        return fail(ErrorCode::invalid_argument, files_.certificate + " is of " + peer_uri((*set)->self()) +
                                                     ", and this process is " + peer_uri(before));
    }
    if (auto published = publish(**set); !published) { return pass_on(published); }
    current_ = std::move(*set);
    ++generation_;
    return true;
}

Result<PeerName> Certificates::verify(std::string_view leaf_pem, std::string_view others_pem, PeerSide side) const {
    return current()->verify(leaf_pem, others_pem, side, now_());
}

}  // namespace base
