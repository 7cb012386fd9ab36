#include "base/crash_report.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <utility>

namespace base {
namespace {

constexpr std::array<std::pair<int, const char*>, 5> kSignals = {
    {{SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"}, {SIGILL, "SIGILL"}, {SIGFPE, "SIGFPE"}, {SIGABRT, "SIGABRT"}}};
#ifdef SLUICE_SANITIZED
constexpr bool kIsSanitized = true;
#else
constexpr bool kIsSanitized = false;
#endif
constexpr int kFramesMax = 64;
constexpr std::size_t kStackBytes = 64 << 10;
constexpr unsigned kOthersWaitS = 5;

// Read by handlers: written before the first of them is set, and never afterwards.
std::array<char, 128> who_is_it{};
alignas(16) std::array<std::byte, kStackBytes> stack_of_main;  // an overflowing stack leaves none to tell it on
std::atomic<bool> is_told = false;                             // two threads may fall at once

// In a handler nothing may be allocated or locked: each piece is written as it is.
void say(std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
        if (written <= 0) { return; }
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

void say_hexadecimal(std::uintptr_t number) {
    std::array<char, 2 + 2 * sizeof(number)> digits{};
    std::size_t at = digits.size();
    do {
        digits[--at] = "0123456789abcdef"[number % 16];
        number /= 16;
    } while (number > 0);
    digits[--at] = 'x';
    digits[--at] = '0';
    say({digits.data() + at, digits.size() - at});
}

const char* name_of(int signal_number) {
    const auto found =
        std::find_if(kSignals.begin(), kSignals.end(), [&](const auto& it) { return it.first == signal_number; });
    return found == kSignals.end() ? "a signal" : found->second;
}

void tell_crash(int signal_number, siginfo_t* info, void* /*context*/) {
    if (is_told.exchange(true)) {
        sleep(kOthersWaitS);  // another thread tells, and ends the process
    } else {
        std::array<char, 16> thread{};  // as long as the system lets a name be
        prctl(PR_GET_NAME, thread.data());
        say(who_is_it.data());
        say(" ends by ");
        say(name_of(signal_number));
        say(" in thread ");
        say({thread.data(), strnlen(thread.data(), thread.size())});
        if ((signal_number == SIGSEGV || signal_number == SIGBUS) && info->si_code > 0) {  // not of another process
            say(", address ");
            say_hexadecimal(reinterpret_cast<std::uintptr_t>(info->si_addr));
        }
        say(". It stood here (addr2line -Cfie FILE OFFSET):\n");
        std::array<void*, kFramesMax> frames{};
        const int count = backtrace(frames.data(), kFramesMax);
        backtrace_symbols_fd(frames.data(), count, STDERR_FILENO);
    }
    // The handler is taken back already (SA_RESETHAND); blocked until this returns, it then ends the process.
    raise(signal_number);
}

}  // namespace

void report_crashes(const std::string& who) {
    if (kIsSanitized) { return; }
    who.copy(who_is_it.data(), who_is_it.size() - 1);
    void* frame = nullptr;
    backtrace(&frame, 1);  // loads the library that it needs now, not while the process falls
    const stack_t stack{.ss_sp = stack_of_main.data(), .ss_flags = 0, .ss_size = stack_of_main.size()};
    sigaltstack(&stack, nullptr);
    for (const auto& [signal_number, name] : kSignals) {
        struct sigaction action{};
        action.sa_sigaction = tell_crash;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | static_cast<int>(SA_RESETHAND);
        sigemptyset(&action.sa_mask);
        sigaction(signal_number, &action, nullptr);
    }
}

}  // namespace base
