#include "cli/certs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "base/certificate_make.h"
#include "base/certificates.h"
#include "cli/process.h"

namespace cli {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;

constexpr std::int64_t kDaySeconds = 86'400;
/// Clocks of other machines may be behind by so much.
constexpr std::int64_t kSkewSeconds = 300;
constexpr const char* kAuthority = "authority";
// The names that a Kubernetes Secret of type kubernetes.io/tls has, and cert-manager writes.
constexpr const char* kCertificate = "tls.crt";
constexpr const char* kKey = "tls.key";
constexpr const char* kAuthorityCertificate = "ca.crt";

/// Never over a file that is there.
base::Result<void> write_new(const fs::path& path, const std::string& text) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    const bool is_written =
        file >= 0 && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && fsync(file) == 0;
    const int why = errno;
    if (file >= 0) { close(file); }
    if (is_written) { return {}; }
    return base::fail(ErrorCode::unavailable, path.string() + " cannot be written: " + std::strerror(why));
}

base::Result<void> make_folder(const fs::path& path) {
    if (mkdir(path.c_str(), 0700) == 0) { return {}; }
    if (errno == EEXIST) {
        return base::fail(ErrorCode::invalid_argument,
                          path.string() +
                              " is there already, and nothing is overwritten: name another --out, and "
                              "--authority for certificates of the same authority");
    }
    return base::fail(ErrorCode::unavailable, path.string() + " cannot be made: " + std::strerror(errno));
}

base::Result<std::string> read_text(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), {});
    if (!file.is_open() || text.empty()) {
        return base::fail(ErrorCode::invalid_argument, path.string() + " cannot be read, or is empty");
    }
    return text;
}

struct Wanted {
    base::PeerName peer;
    std::string folder;
};

/// Folders are named by the role, or by role and name.
base::Result<std::vector<Wanted>> wanted_of(const CertsCommand& command) {
    std::vector<std::string> roles = command.roles;
    if (roles.empty()) { roles = {"gateway", "scheduler", "prefill", "decode", "mixed", "encode", "operator"}; }
    std::vector<Wanted> all;
    std::set<std::string> folders;
    for (const std::string& text : roles) {
        const auto split = text.find('/');
        const std::string role = text.substr(0, split);
        const std::string name = split == std::string::npos ? role : text.substr(split + 1);
        auto peer = base::parse_peer_uri(std::string(base::kPeerScheme) + command.cluster + "/" + role + "/" + name);
        if (!peer) { return base::pass_on(peer, "--role " + text + ", --cluster " + command.cluster); }
        std::string folder = split == std::string::npos ? role : role + "-" + name;
        if (!folders.insert(folder).second) {
            return base::fail(ErrorCode::invalid_argument, "--role " + text + " is given twice");
        }
        all.push_back({std::move(*peer), std::move(folder)});
    }
    return all;
}

base::Result<base::IssuedCertificate> authority_of(const CertsCommand& command, std::int64_t now) {
    if (command.authority.empty()) {
        return base::make_authority("Sluice authority of " + command.cluster,
                                    {now - kSkewSeconds, now + kDaySeconds * command.authority_days});
    }
    const auto certificate = read_text(fs::path(command.authority) / kCertificate);
    if (!certificate) { return base::pass_on(certificate, "--authority"); }
    const auto key = read_text(fs::path(command.authority) / kKey);
    if (!key) { return base::pass_on(key, "--authority"); }
    return base::IssuedCertificate{*certificate, *key};
}

base::Result<void> make(const CertsCommand& command) {
    const auto wanted = wanted_of(command);
    if (!wanted) { return base::pass_on(wanted); }
    if (command.authority.empty() && command.days > command.authority_days) {
        return base::fail(ErrorCode::invalid_argument,
                          "--days is more than --authority-days: no certificate outlives its authority");
    }
    const std::int64_t now = base::Certificates::system_now();
    const auto authority = authority_of(command, now);
    if (!authority) { return base::pass_on(authority); }
    std::vector<base::IssuedCertificate> issued;  // all, before anything is written
    for (const Wanted& one : *wanted) {
        auto made = base::issue_certificate(
            *authority, {one.peer, command.names, {now - kSkewSeconds, now + kDaySeconds * command.days}});
        if (!made) { return base::pass_on(made); }
        issued.push_back(std::move(*made));
    }

    const fs::path folder = command.folder;
    if (auto made = make_folder(folder); !made) { return made; }
    const auto write = [](const fs::path& to, const base::IssuedCertificate& one) {
        return make_folder(to)
            .and_then([&] { return write_new(to / kCertificate, one.certificate_pem); })
            .and_then([&] { return write_new(to / kKey, one.private_key_pem); });
    };
    if (command.authority.empty()) {
        if (auto written = write(folder / kAuthority, *authority); !written) { return written; }
    }
    for (std::size_t i = 0; i < issued.size(); ++i) {
        const fs::path to = folder / (*wanted)[i].folder;
        auto written = write(to, issued[i]);
        if (written) { written = write_new(to / kAuthorityCertificate, authority->certificate_pem); }
        if (!written) { return written; }
        std::printf("%s: %s\n", to.c_str(), base::peer_uri((*wanted)[i].peer).c_str());
    }
    if (command.authority.empty()) {
        std::fprintf(stderr,
                     "%s signs certificates of this cluster: keep it where no process of the cluster can read it\n",
                     (folder / kAuthority).c_str());
    }
    return {};
}

}  // namespace

void add_certs_make(CLI::App& app, CertsCommand& command) {
    app.add_option("--out", command.folder,
                   "folder to make: with one for each role (tls.crt, tls.key, ca.crt), and one for the authority")
        ->required();
    app.add_option("--authority", command.authority,
                   "folder of an authority that is there (tls.crt, tls.key): signs with it, for a renewal");
    app.add_option("--cluster", command.cluster, "as in sluice://CLUSTER/ROLE/NAME: others are refused")
        ->capture_default_str();
    app.add_option("--role", command.roles,
                   "ROLE or ROLE/NAME, of gateway, scheduler, prefill, decode, mixed, encode, operator; several with "
                   "commas; default: one of each")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--san", command.names,
                   "a further name in all of them, DNS:HOST or IP:ADDRESS; Sluice asks for none")
        ->allow_extra_args(false);
    app.add_option("--days", command.days, "until they run out")->capture_default_str()->check(CLI::Range(1, 36500));
    app.add_option("--authority-days", command.authority_days, "until a new authority does")
        ->capture_default_str()
        ->check(CLI::Range(1, 36500));
}

int certs_make_main(const CertsCommand& command) {
    const auto made = make(command);
    return made ? 0 : report(made.error());
}

}  // namespace cli
