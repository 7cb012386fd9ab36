#include "net/ucx_environment.h"

#include <dlfcn.h>
#include <signal.h>
#include <ucs/debug/debug.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

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
    // Signals and memory functions are ours. UCX reads these when it is loaded, so here they help children only.
    {"UCX_HANDLE_ERRORS", "none"},
    {"UCX_DEBUG_SIGNO", "0"},
    {"UCX_MEM_EVENTS", "n"},
    // A lost peer is daily business for us, reported as such.
    {"UCX_LOG_LEVEL", "fatal"},
};

/// UCX installs handlers while it is loaded, before any setting of ours can tell it not to.
void take_out_signal_handlers() {
    for (const int signal_number : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) {
        ucs_debug_disable_signal(signal_number);
    }
    struct sigaction current{};
    Dl_info library{};
    if (sigaction(SIGHUP, nullptr, &current) != 0 || current.sa_handler == SIG_DFL || current.sa_handler == SIG_IGN) {
        return;
    }
    const bool is_known = dladdr(reinterpret_cast<void*>(current.sa_handler), &library) != 0;
    if (is_known && library.dli_fname != nullptr && std::strstr(library.dli_fname, "libucs") != nullptr) {
        struct sigaction standard{};
        standard.sa_handler = SIG_DFL;
        sigaction(SIGHUP, &standard, nullptr);
    }
}

}  // namespace

void prepare_ucx_environment() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (const Setting& setting : kSettings) {
            setenv(setting.name, setting.value, 0);
        }
        take_out_signal_handlers();
    });
}

}  // namespace net
