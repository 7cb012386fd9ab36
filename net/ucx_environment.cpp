#include "net/ucx_environment.h"

#include <dlfcn.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <ucs/config/types.h>
#include <ucs/debug/debug.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

extern "C" {
#include <ucs/config/global_opts.h>  // has no guard for C++ of its own
}

namespace net {

namespace {

struct Setting {
    const char* name;
    const char* value;
};

constexpr Setting kSettings[] = {
    // With peer error handling UCX drops shared memory silently unless it is told that it may stay.
    {"UCX_POSIX_ERROR_HANDLING", "y"},
    // Over shared memory only the keep-alive finds a dead peer; its default is 20 s.
    {"UCX_KEEPALIVE_INTERVAL", "1s"},
    // Creating an endpoint must never block the thread that serves all others.
    {"UCX_TCP_CONN_NB", "y"},
    {"UCX_TCP_CM_REUSEADDR", "y"},
    // Memory functions are ours.
    {"UCX_MEM_EVENTS", "n"},
    // UCX read some of these when it was loaded; it need not complain.
    {"UCX_WARN_UNUSED_ENV_VARS", "n"},
};

bool is_handled_by_ucx(int signal_number) {
    struct sigaction current{};
    if (sigaction(signal_number, nullptr, &current) != 0) { return false; }
    if (current.sa_handler == SIG_DFL || current.sa_handler == SIG_IGN) { return false; }
    Dl_info library{};
    const bool is_known = dladdr(reinterpret_cast<void*>(current.sa_handler), &library) != 0;
    return is_known && library.dli_fname != nullptr && std::strstr(library.dli_fname, "libucs") != nullptr;
}

/// UCX installs handlers while it is loaded, before any setting of ours can tell it not to.
void take_out_signal_handlers() {
    for (const int signal_number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) {
        if (is_handled_by_ucx(signal_number)) { ucs_debug_disable_signal(signal_number); }
    }
    if (is_handled_by_ucx(SIGHUP)) {
        struct sigaction standard{};
        standard.sa_handler = SIG_DFL;
        sigaction(SIGHUP, &standard, nullptr);
    }
}

/// What was found in the environment and taken out of it.
std::map<std::string, std::string>& taken_out() {
    static std::map<std::string, std::string> variables;
    return variables;
}

/// UCX reads what it finds under its prefix wherever it looks: what is not there cannot make it listen.
void take_out_variables() {
    std::vector<std::string> names;
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
        const std::string_view text(*variable);
        const std::size_t name_ends = text.find('=');
        if (!text.starts_with("UCX_") || name_ends == std::string_view::npos) { continue; }
        names.emplace_back(text.substr(0, name_ends));
        const auto is_it = [text](const Setting& setting) {
            return text == std::string(setting.name) + "=" + setting.value;
        };
        // Ours are there where a process of ours started this one.
        if (std::none_of(std::begin(kSettings), std::end(kSettings), is_it)) {
            taken_out()[names.back()] = text.substr(name_ends + 1);
        }
    }
    for (const std::string& name : names) {
        unsetenv(name.c_str());
    }
}

}  // namespace

void prepare_ucx_environment() {
    static std::once_flag once;
    std::call_once(once, [] {
        take_out_variables();
        for (const Setting& setting : kSettings) {
            setenv(setting.name, setting.value, 0);
        }
        // Read from the environment when UCX is loaded, so it is set in another way. UCX logs to stdout, which is ours;
        // and a lost peer is daily business for us, reported as such.
        ucs_global_opts_set_value("LOG_LEVEL", "fatal");
        take_out_signal_handlers();
    });
}

void restore_ucx_environment(std::span<const std::string> names) {
    static std::once_flag once;
    std::call_once(once, [names] {
        for (const auto& [name, value] : taken_out()) {
            if (std::find(names.begin(), names.end(), name) != names.end()) {
                setenv(name.c_str(), value.c_str(), 1);
            } else {
                spdlog::warn("{} of the environment has no effect: it is not among worker.kv_ucx_environment", name);
            }
        }
    });
}

}  // namespace net
