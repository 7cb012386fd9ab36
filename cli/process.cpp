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

#include "base/check.h"

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
    app.add_flag("--listen-public", flags.listen_public,
                 "allow to listen on more than loopback (there are no keys and no TLS yet)");
}

base::Result<base::Config> read_config(const CommonFlags& flags) {
    base::Config config;
    for (const std::string& file : flags.config_files) {
        if (const auto added = config.add_file(file); !added) { return base::pass_on(added); }
    }
    for (const std::string& setting : flags.settings) {
        if (const auto added = config.set(setting); !added) { return base::pass_on(added); }
    }
    return config;
}

base::Result<base::HashKey> cluster_key(base::Config& config, bool mint) {
    const std::string hex = config.string("cluster.key", "");
    if (!hex.empty()) { return base::parse_hash_key(hex); }
    if (mint) { return base::random_hash_key(); }
    return base::fail(
        ErrorCode::invalid_argument,
        "cluster.key is not set: give all roles of one cluster the same 32 hexadecimal digits, for example "
        "--set cluster.key=$(openssl rand -hex 16)");
}

base::Result<void> check_listen_host(const std::string& host, const CommonFlags& flags) {
    if (flags.listen_public || host == "localhost" || host == "::1" || host == "[::1]" || host.starts_with("127.")) {
        return {};
    }
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

int report(const base::Error& error) {
    std::fprintf(stderr, "sluice: %s\n", error.message.c_str());
    if (error.code == ErrorCode::cancelled) { return 130; }  // as a shell names the end by Ctrl-C
    const bool is_usage = error.code == ErrorCode::invalid_argument || error.code == ErrorCode::permission_denied;
    return is_usage ? 2 : 1;
}

}  // namespace cli
