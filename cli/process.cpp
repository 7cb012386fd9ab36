#include "cli/process.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/loopback.h"
#include "cli/private_file.h"
#include "proto/version.h"

#include "commit.h"

namespace cli {

using base::ErrorCode;

namespace {

sigset_t end_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

/// An eventfd that can be read once ask_to_end() was called.
int asked_to_end() {
    static const int descriptor = eventfd(0, EFD_CLOEXEC);
    CHECK(descriptor >= 0, std::strerror(errno));
    return descriptor;
}

/// A descriptor that can be read when SIGINT or SIGTERM has come.
int end_signals_descriptor() {
    const sigset_t set = end_signals();
    const int descriptor = signalfd(-1, &set, SFD_CLOEXEC);
    CHECK(descriptor >= 0, std::strerror(errno));
    return descriptor;
}

void write_event(int descriptor) {
    const std::uint64_t one = 1;
    CHECK(write(descriptor, &one, sizeof(one)) == sizeof(one), std::strerror(errno));
}

}  // namespace

Event::Event() : descriptor_(eventfd(0, EFD_CLOEXEC)) {
    CHECK(descriptor_ >= 0, std::strerror(errno));
}

Event::~Event() {
    close(descriptor_);
}

void Event::set() {
    write_event(descriptor_);
}

bool Event::wait(base::Duration patience) const {
    const int signals = end_signals_descriptor();
    pollfd waits[] = {{descriptor_, POLLIN, 0}, {signals, POLLIN, 0}, {asked_to_end(), POLLIN, 0}};
    const auto end = std::chrono::steady_clock::now() + patience;
    int found = -1;
    while (found < 0) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
        found = poll(waits, 3, static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000)));
        CHECK(found >= 0 || errno == EINTR, std::strerror(errno));
    }
    close(signals);
    return waits[0].revents != 0;
}

void add_common_flags(CLI::App& app, CommonFlags& flags) {
    // One value each: a list would take the prompt behind it too.
    app.add_option("--config", flags.config_files, "YAML settings; may be given more than once")
        ->allow_extra_args(false);
    app.add_option("--set", flags.settings, "one setting, key=value; after all files; may be given more than once")
        ->allow_extra_args(false);
    app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error, off")->capture_default_str();
    app.add_flag("--listen-public", flags.listen_public, "allow to listen on more than loopback");
}

void add_scheduler_flag(CLI::App& app, std::vector<std::string>& addresses) {
    app.add_option("--scheduler", addresses,
                   "HOST:PORT of the scheduler; with commas, or several times, of all that may lead")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->capture_default_str();
}

base::Result<base::Config> read_config(const CommonFlags& flags, const std::string& below, const std::string& name) {
    base::Config config;
    if (const auto added = config.add_text(below, name); !added) { return base::pass_on(added); }
    for (const std::string& file : flags.config_files) {
        if (const auto added = config.add_file(file); !added) { return base::pass_on(added); }
    }
    for (const std::string& setting : flags.settings) {
        if (const auto added = config.set(setting); !added) { return base::pass_on(added); }
    }
    return config;
}

namespace {

constexpr std::size_t kKeyFileBytesMax = 256;

}  // namespace

base::Result<base::HashKey> read_key_file(const std::string& path) {
    auto read = read_private_file(path, kKeyFileBytesMax, "the cluster's key file " + path);
    if (!read) { return base::pass_on(read); }
    std::string text = std::move(*read);
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
        text.pop_back();
    }
    auto key = base::parse_hash_key(text);
    if (!key) {
        return base::fail(
            ErrorCode::invalid_argument,
            "the cluster's key file " + path + " does not hold 32 hexadecimal digits (openssl rand -hex 16)");
    }
    return key;
}

base::Result<std::optional<base::HashKey>> key_of_environment() {
    const char* const text = std::getenv("SLUICE_CLUSTER_KEY");
    if (text == nullptr) { return std::optional<base::HashKey>(); }
    const auto key = base::parse_hash_key(text);
    if (!key) { return base::fail(ErrorCode::invalid_argument, "SLUICE_CLUSTER_KEY is not 32 hexadecimal digits"); }
    return std::optional(*key);
}

proto::ClusterKey ClusterSettings::control() const {
    using proto::Encryption;
    const Encryption encryption = always_tls        ? Encryption::always
                                  : trusted_network ? Encryption::never
                                                    : Encryption::beyond_loopback;
    const proto::ClusterKey control(key, admit_without_key, encryption);
    return peers ? control.with(peers) : control;
}

base::Result<void> ClusterSettings::use(base::CertificateFiles files) {
    auto opened = base::Certificates::open(std::move(files));
    if (!opened) { return base::pass_on(opened); }
    certificates = std::move(*opened);
    peers = proto::Peers::make(certificates);
    return {};
}

base::Result<void> ClusterSettings::check_role(base::PeerRole role) const {
    const auto self = certificates ? std::optional(certificates->current()->self()) : std::nullopt;
    if (!self || base::may_run_as(self->role, role)) { return {}; }
    return base::fail(ErrorCode::invalid_argument, "cluster.certificate_file is of " + base::peer_uri(*self) +
                                                       ", and this process is a " +
                                                       std::string(base::peer_role_name(role)));
}

namespace {

/// All three files, or none.
base::Result<void> read_certificates(base::Config& config, ClusterSettings& cluster) {
    base::CertificateFiles files;
    files.certificate = config.string("cluster.certificate_file", "");
    files.key = config.string("cluster.certificate_key_file", "");
    files.authority = config.string("cluster.authority_file", "");
    cluster.certificates_look =
        std::chrono::milliseconds(config.integer("cluster.certificates_look_ms", 1000, 50, 3'600'000));
    const int given =
        (files.certificate.empty() ? 0 : 1) + (files.key.empty() ? 0 : 1) + (files.authority.empty() ? 0 : 1);
    if (given == 0) { return {}; }
    if (given < 3) {
        return base::fail(ErrorCode::invalid_argument,
                          "cluster.certificate_file, cluster.certificate_key_file and cluster.authority_file belong "
                          "together: set all three, or none");
    }
    if (cluster.admit_without_key) {
        return base::fail(ErrorCode::invalid_argument,
                          "cluster.certificate_file contradicts cluster.admit_without_key, which serves processes that "
                          "show neither: leave one of them out");
    }
    return cluster.use(std::move(files));
}

}  // namespace

base::Result<ClusterSettings> read_cluster(base::Config& config, bool mint) {
    ClusterSettings cluster;
    cluster.trusted_network = config.boolean("cluster.trusted_network", false);
    cluster.always_tls = config.boolean("cluster.always_tls", false);
    cluster.admit_without_key = config.boolean("cluster.admit_without_key", false);
    if (auto read = read_certificates(config, cluster); !read) { return base::pass_on(read); }
    const std::string hex = config.string("cluster.key", "");
    const std::string file = config.string("cluster.key_file", "");
    if (!hex.empty() && !file.empty()) {
        return base::fail(ErrorCode::invalid_argument, "both cluster.key and cluster.key_file are set: leave one");
    }
    if (!hex.empty() || !file.empty()) {
        const auto key = hex.empty() ? read_key_file(file) : base::parse_hash_key(hex);
        if (!key) { return base::pass_on(key); }
        cluster.key = *key;
        return cluster;
    }
    const auto key = key_of_environment();
    if (!key) { return base::pass_on(key); }
    if (*key) {
        cluster.key = **key;
    } else if (mint) {
        cluster.key = base::random_hash_key();
        cluster.is_minted = true;
    } else {
        return base::fail(ErrorCode::invalid_argument,
                          "the cluster has no key: give all of its processes the same one, 32 hexadecimal digits in a "
                          "file (umask 077; openssl rand -hex 16 > FILE; --set cluster.key_file=FILE) or in "
                          "SLUICE_CLUSTER_KEY");
    }
    return cluster;
}

base::Result<void> check_listen_host(const std::string& host, const CommonFlags& flags) {
    if (flags.listen_public || base::is_loopback_host(host)) { return {}; }
    return base::fail(ErrorCode::permission_denied,
                      "refusing to listen on " + host + ": only loopback is allowed without --listen-public");
}

base::Result<std::pair<std::string, std::uint16_t>> split_address(const std::string& address) {
    const auto colon = address.rfind(':');
    if (colon == std::string::npos || colon == 0 || colon + 1 == address.size()) {
        return base::fail(ErrorCode::invalid_argument, "an address is HOST:PORT, got '" + address + "'");
    }
    std::uint32_t port = 0;
    for (const char digit : address.substr(colon + 1)) {
        if (digit < '0' || digit > '9' || port > 65535) {
            return base::fail(ErrorCode::invalid_argument, "no port number in '" + address + "'");
        }
        port = 10 * port + static_cast<std::uint32_t>(digit - '0');
    }
    if (port > 65535) { return base::fail(ErrorCode::invalid_argument, "no port number in '" + address + "'"); }
    return std::pair(address.substr(0, colon), static_cast<std::uint16_t>(port));
}

void block_signals() {
    const sigset_t set = end_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
}

void wait_for_end() {
    const int signals = end_signals_descriptor();
    pollfd waits[] = {{signals, POLLIN, 0}, {asked_to_end(), POLLIN, 0}};
    while (poll(waits, 2, -1) < 0) {
        CHECK(errno == EINTR, std::strerror(errno));
    }
    if (waits[0].revents != 0) {  // taken, so that it does not come again when signals are no longer blocked
        signalfd_siginfo taken{};
        CHECK(read(signals, &taken, sizeof(taken)) == sizeof(taken), std::strerror(errno));
    }
    close(signals);
}

void ask_to_end() {
    write_event(asked_to_end());
}

bool end_asked() {
    static bool asked = false;
    const sigset_t set = end_signals();
    const timespec now{};
    asked = asked || sigtimedwait(&set, nullptr, &now) > 0;
    return asked;
}

void end_if_asked() {
    const sigset_t set = end_signals();
    const timespec now{};
    const int number = sigtimedwait(&set, nullptr, &now);
    if (number > 0) { std::_Exit(128 + number); }
}

void unblock_signals() {
    const sigset_t set = end_signals();
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

std::string version_line() {
    return std::string("sluice ") + SLUICE_VERSION + " (" + SLUICE_COMMIT + ", " + SLUICE_BUILD_TYPE + ")";
}

std::string version_json() {
    return std::string(R"({"version":")") + SLUICE_VERSION + R"(","commit":")" + SLUICE_COMMIT + R"(","build_type":")" +
           SLUICE_BUILD_TYPE + R"(","protocol":")" + std::to_string(proto::kProtocolVersion) + "." +
           std::to_string(proto::kProtocolMinor) + R"("})";
}

void tell_version(base::Metrics& metrics) {
    metrics
        .gauge("sluice_build_info", "Always 1; its labels are the version of the process and what it was built of",
               {{"version", SLUICE_VERSION}, {"commit", SLUICE_COMMIT}, {"build_type", SLUICE_BUILD_TYPE}})
        .Set(1);
}

int report(const base::Error& error) {
    std::fprintf(stderr, "sluice: %s\n", error.message.c_str());
    if (error.code == ErrorCode::cancelled) { return 130; }  // as a shell names the end by Ctrl-C
    const bool is_usage = error.code == ErrorCode::invalid_argument || error.code == ErrorCode::permission_denied;
    return is_usage ? 2 : 1;
}

}  // namespace cli
