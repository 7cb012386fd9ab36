#include "text/text_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"
#include "text/shim_call.h"
#include "text/text_host.h"

namespace text {
namespace {

using base::ErrorCode;

constexpr std::uint64_t kAnswerBytesMax = std::uint64_t{1} << 28;

/// Both ends of a stream; ours gives up after `patience`.
bool make_pair(std::array<int, 2>& ends, std::chrono::milliseconds patience) {
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) { return false; }
    timeval wait{};
    wait.tv_sec = static_cast<time_t>(patience.count() / 1000);
    wait.tv_usec = static_cast<suseconds_t>(patience.count() % 1000 * 1000);
    ::setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    ::setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    return true;
}

std::string mib(std::size_t bytes) {
    return std::to_string(bytes >> 20) + " MiB";
}

std::string seconds(std::chrono::microseconds time) {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
    return ms % 1000 == 0 ? std::to_string(ms / 1000) + " s" : std::to_string(ms) + " ms";
}

}  // namespace

base::Result<std::shared_ptr<TextProcess>> TextProcess::start(const TextProcessOptions& options) {
    std::shared_ptr<TextProcess> process(new TextProcess(options));
    if (auto spawned = process->spawn(); !spawned) { return base::pass_on(spawned); }
    return process;
}

base::Result<void> TextProcess::spawn() {
    std::array<int, 2> ends{};
    if (!make_pair(ends, options_.patience)) {
        return base::fail(ErrorCode::unavailable,
                          std::string("a text process needs a socket: ") + std::strerror(errno));
    }
    ::posix_spawn_file_actions_t files;
    ::posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attributes);
    // What a library prints when it aborts says nothing to anybody.
    for (const int standard : {0, 1, 2}) {
        ::posix_spawn_file_actions_addopen(&files, standard, "/dev/null", standard == 0 ? O_RDONLY : O_WRONLY, 0);
    }
    ::posix_spawn_file_actions_adddup2(&files, ends[1], 3);  // also without CLOEXEC where it is 3 already
    sigset_t none;
    ::sigemptyset(&none);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setpgroup(&attributes, 0);  // signals of a terminal are for the server
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    std::string program = options_.program;
    std::string command(kTextHostCommand);
    char* arguments[] = {program.data(), command.data(), nullptr};
    const int failed = ::posix_spawn(&host_.id, options_.program.c_str(), &files, &attributes, arguments, ::environ);
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
    ::close(ends[1]);
    host_.socket = ends[0];
    if (failed != 0) {
        host_.id = -1;
        return base::fail(ErrorCode::unavailable,
                          "the text process " + options_.program + " does not start: " + std::strerror(failed));
    }
    const TextHostLimits limits{.load_memory_bytes = options_.load_memory_bytes,
                                .call_memory_bytes = options_.call_memory_bytes,
                                .stack_bytes = options_.stack_bytes,
                                .load_cpu_us = static_cast<std::uint64_t>(options_.load_cpu.count()),
                                .call_cpu_us = static_cast<std::uint64_t>(options_.call_cpu.count()),
                                .grammar_cpu_us = static_cast<std::uint64_t>(options_.grammar_cpu.count())};
    const std::string_view parts[] = {bytes_of(limits)};
    const std::lock_guard lock(mutex_);
    const Answer answer = ask_host(TextOp::setup, 0, parts);
    if (answer.code == SLUICE_OK) { return {}; }
    return base::fail(ErrorCode::unavailable, "the text process " + options_.program + " does not answer");
}

TextProcess::~TextProcess() {
    close_idle();
    if (host_.socket >= 0) { ::close(host_.socket); }
    if (host_.id < 0 || !is_child_) { return; }
    ::kill(host_.id, SIGKILL);
    while (::waitpid(host_.id, nullptr, 0) < 0 && errno == EINTR) {}
}

/// With `mutex_`. A host that does not answer is ended; the message says how it ended.
TextProcess::Answer TextProcess::ask_host(TextOp op, std::int64_t number, std::span<const std::string_view> parts,
                                          int descriptor) {
    Answer answer;
    errno = EPIPE;
    if (host_.socket >= 0 && send_frame(host_.socket, static_cast<std::uint32_t>(op), number, parts, descriptor) &&
        receive_frame(host_.socket, answer.frame, kAnswerBytesMax)) {
        answer.code = static_cast<std::int32_t>(answer.frame.head.kind);
        return answer;
    }
    const int error = errno;
    std::optional<int> status;
    if (host_.socket >= 0) { ::close(host_.socket); }
    if (host_.id >= 0 && is_child_) {
        int ended = 0;
        ::kill(host_.id, SIGKILL);
        ::pid_t waited = 0;
        do {
            waited = ::waitpid(host_.id, &ended, 0);
        } while (waited < 0 && errno == EINTR);
        if (waited == host_.id) { status = ended; }
    }
    if (host_.id >= 0) { ++lost_; }
    host_ = {};
    answer.code = SLUICE_EXHAUSTED;
    answer.frame.set_message(why_ended(status, error, true));
    return answer;
}

std::string TextProcess::why_ended(std::optional<int> status, int error, bool is_load) const {
    const std::size_t memory = is_load ? options_.load_memory_bytes : options_.call_memory_bytes;
    const auto time = is_load ? options_.load_cpu : options_.call_cpu;
    if (error == EAGAIN) { return "it did not end within " + seconds(options_.patience); }
    if (error == EMSGSIZE) { return "its result has more than " + mib(kAnswerBytesMax); }
    if (!status) { return "its process was lost"; }
    if (WIFSIGNALED(*status)) {
        switch (WTERMSIG(*status)) {
            case SIGPROF:
                return "it needs more than " + seconds(time) + " of CPU time";
            case SIGSEGV:
            case SIGBUS:
                return "it is nested too deeply (more than " + mib(options_.stack_bytes) + " of stack)";
            case SIGABRT:
                return "it needs more than " + mib(memory) + " of memory";
            case SIGKILL:
                return "its process was killed, as the system does when memory runs out";
            default:
                return "its process ended by the signal " + std::to_string(WTERMSIG(*status));
        }
    }
    return "its process ended with the status " + std::to_string(WEXITSTATUS(*status));
}

std::int32_t TextProcess::take_table(const Answer& answer, std::string& out) {
    out = std::string(answer.frame.part(0));
    if (answer.code != SLUICE_OK) { return answer.code; }
    TextTableNumbers numbers{};
    const auto tokens = static_cast<std::size_t>(answer.frame.head.number);
    const std::string_view offsets = answer.frame.part(2);
    table_bytes_ = answer.frame.part(1);
    table_flags_ = answer.frame.part(3);
    continuation_prefix_ = answer.frame.part(4);
    bool is_sound = answer.frame.read(0, numbers) && table_flags_.size() == tokens &&
                    offsets.size() == (tokens + 1) * sizeof(std::uint32_t);
    if (is_sound) {
        table_offsets_.resize(tokens + 1);
        std::memcpy(table_offsets_.data(), offsets.data(), offsets.size());
        is_sound = table_offsets_.front() == 0 && table_offsets_.back() == table_bytes_.size();
        for (std::size_t token = 0; is_sound && token < tokens; ++token) {
            is_sound = table_offsets_[token] <= table_offsets_[token + 1];
        }
    }
    if (!is_sound) {
        out = "the text process gave a table that makes no sense";
        return SLUICE_PANICKED;
    }
    table_ = {.tokens = tokens,
              .bytes = reinterpret_cast<const std::uint8_t*>(table_bytes_.data()),
              .offsets = table_offsets_.data(),
              .flags = reinterpret_cast<const std::uint8_t*>(table_flags_.data()),
              .first_rule = numbers.first_rule,
              .leading_spaces = numbers.leading_spaces,
              .replaces_each_byte = numbers.replaces_each_byte,
              .continuation_prefix = shim_bytes(continuation_prefix_),
              .bos = numbers.bos,
              .eos = numbers.eos,
              .text_bytes_per_token = numbers.text_bytes_per_token};
    return SLUICE_OK;
}

std::int32_t TextProcess::load_tokenizer(std::int32_t kind, std::string_view first, std::string_view second,
                                         std::string_view options_json, std::string& out) {
    const std::string_view parts[] = {first, second, options_json};
    const std::lock_guard lock(mutex_);
    return take_table(ask_host(TextOp::load, kind, parts), out);
}

std::int32_t TextProcess::load_gguf(const SluiceGgufVocabulary& vocabulary, std::string& out) {
    const auto view = [](const SluiceBytes& bytes) {
        return std::string_view(reinterpret_cast<const char*>(bytes.data), bytes.size);
    };
    const TextGgufNumbers numbers{.bos = vocabulary.bos,
                                  .eos = vocabulary.eos,
                                  .unknown = vocabulary.unknown,
                                  .adds_bos = vocabulary.adds_bos,
                                  .adds_eos = vocabulary.adds_eos,
                                  .adds_space = vocabulary.adds_space};
    const std::string_view parts[] = {view(vocabulary.model),  view(vocabulary.pre),    view(vocabulary.tokens),
                                      view(vocabulary.merges), view(vocabulary.scores), view(vocabulary.types),
                                      bytes_of(numbers)};
    const std::lock_guard lock(mutex_);
    return take_table(ask_host(TextOp::load_gguf, 0, parts), out);
}

std::int32_t TextProcess::compile(std::string_view source, const SluiceTemplateLimits& limits, std::size_t& index,
                                  std::string& out) {
    const std::string_view parts[] = {source, bytes_of(limits)};
    const Answer tried = call(TextOp::compile, 0, parts);
    out = std::string(tried.frame.part(0));
    if (tried.code != SLUICE_OK) { return tried.code; }
    const std::lock_guard lock(mutex_);
    close_idle();  // they do not know it
    const Answer answer = ask_host(TextOp::compile, 0, parts);
    out = std::string(answer.frame.part(0));
    index = static_cast<std::size_t>(answer.frame.head.number);
    return answer.code;
}

std::int32_t TextProcess::render(std::size_t index, std::string_view context_json, const SluiceCivilTime& now,
                                 std::string& out) {
    const std::string_view parts[] = {context_json, bytes_of(now)};
    const Answer answer = call(TextOp::render, static_cast<std::int64_t>(index), parts);
    out = std::string(answer.frame.part(0));
    return answer.code;
}

std::int32_t TextProcess::render_source(std::string_view source, const SluiceTemplateLimits& limits,
                                        std::string_view context_json, const SluiceCivilTime& now, bool& is_compiled,
                                        std::string& out) {
    const std::string_view parts[] = {source, bytes_of(limits), context_json, bytes_of(now)};
    const Answer answer = call(TextOp::render_source, 0, parts);
    is_compiled = answer.frame.head.number != 0;
    out = std::string(answer.frame.part(0));
    return answer.code;
}

std::int32_t TextProcess::encode(std::string_view text, std::span<const std::size_t> text_starts, std::uint32_t flags,
                                 std::uint64_t ids_max, std::string& out) {
    const std::string_view starts(reinterpret_cast<const char*>(text_starts.data()), text_starts.size_bytes());
    const std::string_view parts[] = {text, starts, bytes_of(ids_max)};
    const Answer answer = call(TextOp::encode, flags, parts);
    out = std::string(answer.frame.part(0));
    return answer.code;
}

std::int32_t TextProcess::check_grammar(std::int32_t kind, std::string_view source, std::string& out) {
    const std::string_view parts[] = {source};
    const Answer answer = call(TextOp::grammar, kind, parts);
    out = std::string(answer.frame.part(0));
    return answer.code;
}

std::int64_t TextProcess::token_id(std::string_view token) {
    const std::string_view parts[] = {token};
    const Answer answer = call(TextOp::token_id, 0, parts);
    return answer.code == SLUICE_OK ? answer.frame.head.number : -1;
}

/// One call in a forked process. A process that was killed from outside says nothing about the call, which is tried
/// once more.
TextProcess::Answer TextProcess::call(TextOp op, std::int64_t number, std::span<const std::string_view> parts) {
    for (int attempt = 0;; ++attempt) {
        Answer answer;
        const auto peer = lease();
        if (!peer) {
            answer.code = kNoTextProcess;
            answer.frame.set_message(peer.error().message);
            return answer;
        }
        if (send_frame(peer->socket, static_cast<std::uint32_t>(op), number, parts) &&
            receive_frame(peer->socket, answer.frame, kAnswerBytesMax)) {
            answer.code = static_cast<std::int32_t>(answer.frame.head.kind);
            give_back(*peer);
            return answer;
        }
        const int error = errno;
        const std::optional<int> status = end_peer(*peer);
        const bool is_from_outside =
            error != EAGAIN && error != EMSGSIZE && (!status || (WIFSIGNALED(*status) && WTERMSIG(*status) == SIGKILL));
        if (is_from_outside && attempt == 0) { continue; }
        answer.code = SLUICE_EXHAUSTED;
        answer.frame.set_message(why_ended(status, error, false));
        base::warn_limited("text process", "a text process was ended: {}", answer.frame.part(0));
        return answer;
    }
}

base::Result<TextProcess::Peer> TextProcess::lease() {
    std::unique_lock lock(mutex_);
    if (!given_back_.wait_for(lock, options_.patience, [this] { return leased_ < options_.processes_max; })) {
        return base::fail(ErrorCode::unavailable, "all " + std::to_string(options_.processes_max) +
                                                      " text processes were busy for " + seconds(options_.patience));
    }
    replace_dead_host();
    if (!idle_.empty()) {
        const Peer peer = idle_.back();
        idle_.pop_back();
        ++leased_;
        return peer;
    }
    auto peer = fork_peer();
    if (peer) { ++leased_; }
    return peer;
}

/// With `mutex_`. Any forked process has what the host has, and can take its place.
void TextProcess::replace_dead_host() {
    ::pollfd state{.fd = host_.socket, .events = POLLIN, .revents = 0};
    if (host_.socket >= 0 && ::poll(&state, 1, 0) == 0) { return; }
    if (host_.id >= 0) {
        base::warn_limited("text host", "the text process {} was lost", host_.id);
        ask_host(TextOp::end, -1, {});  // fails, and takes what is left of it away
    }
    if (idle_.empty()) { return; }
    host_ = idle_.back();
    is_child_ = false;
    idle_.pop_back();
}

base::Result<TextProcess::Peer> TextProcess::fork_peer() {
    std::array<int, 2> ends{};
    if (!make_pair(ends, options_.patience)) {
        return base::fail(ErrorCode::unavailable,
                          std::string("a text process needs a socket: ") + std::strerror(errno));
    }
    const Answer answer = ask_host(TextOp::fork, 0, {}, ends[1]);
    ::close(ends[1]);
    if (answer.code == SLUICE_OK) { return Peer{ends[0], static_cast<::pid_t>(answer.frame.head.number)}; }
    ::close(ends[0]);
    return base::fail(ErrorCode::unavailable, "no text process: " + std::string(answer.frame.part(0)));
}

void TextProcess::give_back(Peer peer) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(peer);
    --leased_;
    given_back_.notify_one();
}

/// Takes a process that failed away. Its status as of waitpid(), where that is known.
std::optional<int> TextProcess::end_peer(Peer peer) {
    const std::lock_guard lock(mutex_);
    ++lost_;
    --leased_;
    given_back_.notify_one();
    ::close(peer.socket);
    const Answer answer = ask_host(TextOp::end, peer.id, {});
    if (answer.code != SLUICE_OK) { return std::nullopt; }
    return static_cast<int>(answer.frame.head.number);
}

/// With `mutex_`, or when nobody else uses this object.
void TextProcess::close_idle() {
    for (const Peer& peer : idle_) {
        ::close(peer.socket);
        if (host_.socket >= 0) { ask_host(TextOp::end, peer.id, {}); }
    }
    idle_.clear();
}

std::uint64_t TextProcess::processes_lost() const {
    const std::lock_guard lock(mutex_);
    return lost_;
}

std::vector<::pid_t> TextProcess::process_ids() const {
    const std::lock_guard lock(mutex_);
    std::vector<::pid_t> ids = {host_.id};
    for (const Peer& peer : idle_) {
        ids.push_back(peer.id);
    }
    return ids;
}

}  // namespace text
