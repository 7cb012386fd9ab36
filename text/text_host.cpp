#include "text/text_host.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/ids.h"
#include "text/shim_call.h"
#include "text/text_frame.h"

namespace text {
namespace {

constexpr int kSocket = 3;
constexpr std::size_t kTrimAbove = std::size_t{1} << 20;  // bytes of a request after which memory goes back
constexpr std::uint64_t kRequestBytesMax = std::uint64_t{1} << 30;

/// Bytes of address space that this process has.
std::uint64_t address_space_bytes() {
    unsigned long long pages = 0;
    std::FILE* file = std::fopen("/proc/self/statm", "re");
    if (file == nullptr || std::fscanf(file, "%llu", &pages) != 1) { pages = 0; }
    if (file != nullptr) { std::fclose(file); }
    return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

void set_soft_limit(decltype(RLIMIT_AS) what, std::uint64_t value) {
#ifdef SLUICE_SANITIZED
    if (what == RLIMIT_AS) { return; }  // their runtimes do not survive it
#endif
    rlimit limit{};
    if (::getrlimit(what, &limit) != 0) { return; }
    limit.rlim_cur = std::min<rlim_t>(value, limit.rlim_max);
    ::setrlimit(what, &limit);
}

void write_file(const char* path, const char* text) {
    const int file = ::open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) { return; }
    if (::write(file, text, std::strlen(text)) < 0) {}  // only a wish
    ::close(file);
}

/// While it lives the process may take so much CPU time; then SIGPROF ends it.
class CpuTime {
public:
    explicit CpuTime(std::uint64_t us) { set(us); }
    ~CpuTime() { set(0); }
    CpuTime(const CpuTime&) = delete;
    CpuTime& operator=(const CpuTime&) = delete;

private:
    static void set(std::uint64_t us) {
        itimerval timer{};
        timer.it_value.tv_sec = static_cast<time_t>(us / 1'000'000);
        timer.it_value.tv_usec = static_cast<suseconds_t>(us % 1'000'000);
        ::setitimer(ITIMER_PROF, &timer, nullptr);
    }
};

bool answer(std::uint32_t code, std::string_view message, std::int64_t number = 0) {
    const std::string_view parts[] = {message};
    return send_frame(kSocket, code, number, parts);
}

/// One process: its tokenizer and templates. Forked ones have a copy of them.
class Host {
public:
    int serve() {
        TextFrame frame;
        int carried = -1;
        while (receive_frame(kSocket, frame, kRequestBytesMax, &carried)) {
            std::size_t bytes = 0;
            for (std::size_t at = 0; at < frame.head.parts; ++at) {
                bytes += frame.head.sizes[at];
            }
            if (!act(frame, carried)) { return 1; }
            if (bytes > kTrimAbove) {
                frame = {};
                ::malloc_trim(0);
            }
        }
        return 0;
    }

private:
    bool act(const TextFrame& frame, int carried) {
        switch (static_cast<TextOp>(frame.head.kind)) {
            case TextOp::setup:
                return set_up(frame);
            case TextOp::load:
                return load(frame);
            case TextOp::load_gguf:
                return load_gguf(frame);
            case TextOp::compile:
                return compile(frame);
            case TextOp::fork:
                return fork_one(carried);
            case TextOp::end:
                return end(static_cast<::pid_t>(frame.head.number));
            case TextOp::encode:
                return encode(frame);
            case TextOp::token_id:
                return token_id(frame);
            case TextOp::render:
                return render(frame);
            case TextOp::render_source:
                return render_source(frame);
            case TextOp::grammar:
                return grammar(frame);
        }
        return false;
    }

    bool set_up(const TextFrame& frame) {
        if (!frame.read(0, limits_)) { return false; }
        set_soft_limit(RLIMIT_STACK, limits_.stack_bytes);
        set_soft_limit(RLIMIT_AS, address_space_bytes() + limits_.load_memory_bytes);
        return answer(SLUICE_OK, {});
    }

    bool load(const TextFrame& frame) {
        ShimBuffer message;
        const CpuTime bound(limits_.load_cpu_us);
        const std::int32_t code =
            sluice_tokenizer_load(static_cast<std::int32_t>(frame.head.number), shim_bytes(frame.part(0)),
                                  shim_bytes(frame.part(1)), shim_bytes(frame.part(2)), &tokenizer_, message.out());
        return loaded(code, message);
    }

    bool load_gguf(const TextFrame& frame) {
        TextGgufNumbers numbers{};
        if (!frame.read(6, numbers)) { return false; }
        const SluiceGgufVocabulary vocabulary{.model = shim_bytes(frame.part(0)),
                                              .pre = shim_bytes(frame.part(1)),
                                              .tokens = shim_bytes(frame.part(2)),
                                              .merges = shim_bytes(frame.part(3)),
                                              .scores = shim_bytes(frame.part(4)),
                                              .types = shim_bytes(frame.part(5)),
                                              .bos = numbers.bos,
                                              .eos = numbers.eos,
                                              .unknown = numbers.unknown,
                                              .adds_bos = numbers.adds_bos,
                                              .adds_eos = numbers.adds_eos,
                                              .adds_space = numbers.adds_space};
        ShimBuffer message;
        const CpuTime bound(limits_.load_cpu_us);
        const std::int32_t code = sluice_tokenizer_load_gguf(&vocabulary, &tokenizer_, message.out());
        return loaded(code, message);
    }

    /// The table goes to the other side, which decodes by it.
    bool loaded(std::int32_t code, const ShimBuffer& message) {
        if (code != SLUICE_OK) { return answer(static_cast<std::uint32_t>(code), message.view()); }
        // What an encoder makes at its first use is made here, once for all that are forked.
        const std::size_t start = 0;
        for (const std::size_t starts : {std::size_t{0}, std::size_t{1}}) {
            ShimBuffer ids;
            sluice_tokenizer_encode(tokenizer_, shim_bytes("a"), &start, starts, SLUICE_PARSE_SPECIAL, ids.out());
        }
        SluiceTokenTable table{};
        sluice_tokenizer_table(tokenizer_, &table);
        const TextTableNumbers numbers{.bos = table.bos,
                                       .eos = table.eos,
                                       .text_bytes_per_token = table.text_bytes_per_token,
                                       .first_rule = table.first_rule,
                                       .leading_spaces = table.leading_spaces,
                                       .replaces_each_byte = table.replaces_each_byte};
        const auto* offsets = reinterpret_cast<const char*>(table.offsets);
        const auto text = [](const void* data, std::size_t size) {
            return std::string_view(static_cast<const char*>(data), size);
        };
        const std::string_view parts[] = {bytes_of(numbers), text(table.bytes, table.offsets[table.tokens]),
                                          text(offsets, (table.tokens + 1) * sizeof(std::uint32_t)),
                                          text(table.flags, table.tokens),
                                          text(table.continuation_prefix.data, table.continuation_prefix.size)};
        return send_frame(kSocket, SLUICE_OK, static_cast<std::int64_t>(table.tokens), parts);
    }

    bool compile(const TextFrame& frame) {
        SluiceTemplateLimits limits{};
        if (!frame.read(1, limits)) { return false; }
        SluiceTemplate* compiled = nullptr;
        ShimBuffer message;
        const CpuTime bound(limits_.call_cpu_us);
        const std::int32_t code = sluice_template_compile(shim_bytes(frame.part(0)), limits, &compiled, message.out());
        if (code != SLUICE_OK) { return answer(static_cast<std::uint32_t>(code), message.view()); }
        templates_.push_back(compiled);
        return answer(SLUICE_OK, {}, static_cast<std::int64_t>(templates_.size() - 1));
    }

    bool fork_one(int socket) {
        if (socket < 0) { return false; }
        const ::pid_t child = ::fork();
        if (child == 0) {
            ::dup2(socket, kSocket);
            ::close(socket);
            children_.clear();
            set_soft_limit(RLIMIT_AS, address_space_bytes() + limits_.call_memory_bytes);
            write_file("/proc/self/oom_score_adj", "500");  // before the server and the host
            ::_exit(serve());
        }
        ::close(socket);
        if (child < 0) { return answer(SLUICE_EXHAUSTED, std::string("fork: ") + std::strerror(errno)); }
        children_.push_back(child);
        return answer(SLUICE_OK, {}, child);
    }

    bool end(::pid_t child) {
        const auto place = std::find(children_.begin(), children_.end(), child);
        if (place == children_.end()) { return answer(SLUICE_INVALID, "no child of this process"); }
        children_.erase(place);
        ::kill(child, SIGKILL);
        int status = 0;
        ::waitpid(child, &status, 0);
        return answer(SLUICE_OK, {}, status);
    }

    bool encode(const TextFrame& frame) {
        const std::string_view starts = frame.part(1);
        std::uint64_t ids_max = 0;
        if (tokenizer_ == nullptr || !frame.read(2, ids_max)) { return false; }
        std::vector<std::size_t> aligned(starts.size() / sizeof(std::size_t));
        if (!aligned.empty()) { std::memcpy(aligned.data(), starts.data(), aligned.size() * sizeof(std::size_t)); }
        ShimBuffer out;
        const CpuTime bound(limits_.call_cpu_us);
        const std::int32_t code =
            sluice_tokenizer_encode(tokenizer_, shim_bytes(frame.part(0)), aligned.data(), aligned.size(),
                                    static_cast<std::uint32_t>(frame.head.number), out.out());
        const std::size_t ids = out.view().size() / sizeof(base::TokenId);
        if (code == SLUICE_OK && ids_max > 0 && ids > ids_max) {
            return answer(SLUICE_EXHAUSTED, "the text has " + std::to_string(ids) + " tokens; at most " +
                                                std::to_string(ids_max) + " are taken");
        }
        return answer(static_cast<std::uint32_t>(code), out.view());
    }

    bool token_id(const TextFrame& frame) {
        if (tokenizer_ == nullptr) { return false; }
        const CpuTime bound(limits_.call_cpu_us);
        return answer(SLUICE_OK, {}, sluice_tokenizer_id(tokenizer_, shim_bytes(frame.part(0))));
    }

    bool render(const TextFrame& frame) {
        SluiceCivilTime now{};
        const auto index = static_cast<std::size_t>(frame.head.number);
        if (index >= templates_.size() || !frame.read(1, now)) { return false; }
        ShimBuffer out;
        const CpuTime bound(limits_.call_cpu_us);
        const std::int32_t code = sluice_template_render(templates_[index], shim_bytes(frame.part(0)), now, out.out());
        return answer(static_cast<std::uint32_t>(code), out.view());
    }

    bool render_source(const TextFrame& frame) {
        SluiceTemplateLimits limits{};
        SluiceCivilTime now{};
        if (!frame.read(1, limits) || !frame.read(3, now)) { return false; }
        SluiceTemplate* compiled = nullptr;
        ShimBuffer message;
        const CpuTime bound(limits_.call_cpu_us);
        std::int32_t code = sluice_template_compile(shim_bytes(frame.part(0)), limits, &compiled, message.out());
        if (code != SLUICE_OK) { return answer(static_cast<std::uint32_t>(code), message.view(), 0); }
        ShimBuffer out;
        code = sluice_template_render(compiled, shim_bytes(frame.part(2)), now, out.out());
        sluice_template_free(compiled);
        return answer(static_cast<std::uint32_t>(code), out.view(), 1);
    }

    bool grammar(const TextFrame& frame) {
        ShimBuffer out;
        const CpuTime bound(limits_.grammar_cpu_us);
        const std::int32_t code =
            sluice_grammar_check(static_cast<std::int32_t>(frame.head.number), shim_bytes(frame.part(0)), out.out());
        return answer(static_cast<std::uint32_t>(code), out.view());
    }

    TextHostLimits limits_{};
    SluiceTokenizer* tokenizer_ = nullptr;  // never freed: the process ends
    std::vector<SluiceTemplate*> templates_;
    std::vector<::pid_t> children_;
};

}  // namespace

int text_host_main() {
    ::close_range(kSocket + 1, std::numeric_limits<unsigned>::max(), 0);
    // It ends when the server does: by the socket, and not by a signal to a whole group, so that the server can finish.
    for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
        ::signal(signal, SIG_IGN);
    }
    for (const int signal : {SIGPROF, SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE}) {
        ::signal(signal, SIG_DFL);  // they end this process, and how says why
    }
    set_soft_limit(RLIMIT_CORE, 0);
    ::prctl(PR_SET_NAME, "sluice-text");
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return Host().serve();
}

}  // namespace text
