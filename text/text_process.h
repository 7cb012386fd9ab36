#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/shim/sluice_text.h"
#include "text/text_frame.h"

namespace text {

/// Beside the codes of sluice_text.h: there is no process that could answer.
inline constexpr std::int32_t kNoTextProcess = 100;

/// Bounds of what a model's files and the texts of requests may cost. Beyond them a process of its own ends, and the
/// call that was too much fails.
struct TextProcessOptions {
    /// Becomes a text process by the argument kTextHostCommand. Default: the program that runs.
    std::string program = "/proc/self/exe";
    std::size_t load_memory_bytes = std::size_t{1} << 30;  // a vocabulary of 150,000 tokens takes 0.2 GiB
    std::size_t call_memory_bytes = std::size_t{1} << 30;  // of one call; 1 MiB of text takes about 0.16 GiB
    std::size_t stack_bytes = std::size_t{64} << 20;
    std::chrono::microseconds load_cpu = std::chrono::seconds(15);    // a vocabulary of 150,000 tokens takes 1 s
    std::chrono::microseconds call_cpu = std::chrono::seconds(10);    // 1 MiB of text takes about 0.6 s
    std::chrono::microseconds grammar_cpu = std::chrono::seconds(2);  // most take milliseconds
    /// Until an answer when the machine is busy with other things; then the process is given up.
    std::chrono::milliseconds patience = std::chrono::minutes(2);
    std::size_t processes_max = 64;  // calls at once; more wait
};

/// A model's tokenizer and chat templates in processes of their own. What they cost is bounded by the system (address
/// space, stack, CPU time), and what ends them (a stack that overflows, memory that is not there, an abort) ends no
/// server. The first process, the host, loads; it forks the ones that answer calls, so that a new one is there in
/// milliseconds and shares the vocabulary's memory. Thread-safe; a call takes one forked process for itself.
class TextProcess {
public:
    /// Error: unavailable, when the program cannot be started.
    [[nodiscard]] static base::Result<std::shared_ptr<TextProcess>> start(const TextProcessOptions& options = {});
    /// No call may be running.
    ~TextProcess();
    TextProcess(const TextProcess&) = delete;
    TextProcess& operator=(const TextProcess&) = delete;

    /// The entries of the library (sluice_text.h), with its codes; `out` gets the answer or the message. A call that
    /// ended its process gives SLUICE_EXHAUSTED and says what ran out; kNoTextProcess: none is left.
    std::int32_t load_tokenizer(std::int32_t kind, std::string_view first, std::string_view second,
                                std::string_view options_json, std::string& out);
    std::int32_t load_gguf(const SluiceGgufVocabulary& vocabulary, std::string& out);
    /// Of the tokenizer that was loaded; the pointers live as long as this object.
    const SluiceTokenTable& table() const { return table_; }

    /// `index` gets the template's number, for render(). Tried in a forked process first: what ends that one leaves the
    /// tokenizer and the other templates alone.
    std::int32_t compile(std::string_view source, const SluiceTemplateLimits& limits, std::size_t& index,
                         std::string& out);
    std::int32_t render(std::size_t index, std::string_view context_json, const SluiceCivilTime& now, std::string& out);
    /// Of a source that is compiled for this one call and then forgotten. `is_compiled` gets whether it could be.
    std::int32_t render_source(std::string_view source, const SluiceTemplateLimits& limits,
                               std::string_view context_json, const SluiceCivilTime& now, bool& is_compiled,
                               std::string& out);
    /// `ids_max`: more ids are SLUICE_EXHAUSTED; 0: any number.
    std::int32_t encode(std::string_view text, std::span<const std::size_t> text_starts, std::uint32_t flags,
                        std::uint64_t ids_max, std::string& out);
    /// Whether a grammar (SLUICE_GRAMMAR_...) compiles within all bounds; see sluice_grammar_check().
    std::int32_t check_grammar(std::int32_t kind, std::string_view source, std::string& out);
    /// -1: no such token.
    std::int64_t token_id(std::string_view token);

    /// Processes that were ended by a call or from outside.
    std::uint64_t processes_lost() const;
    /// The host's id and those of idle forked ones: for tests.
    std::vector<::pid_t> process_ids() const;

private:
    struct Peer {
        int socket = -1;
        ::pid_t id = -1;
    };
    struct Answer {
        TextFrame frame;
        std::int32_t code = SLUICE_PANICKED;
    };
    explicit TextProcess(TextProcessOptions options) : options_(std::move(options)) {}

    base::Result<void> spawn();
    Answer ask_host(TextOp op, std::int64_t number, std::span<const std::string_view> parts, int descriptor = -1);
    std::int32_t take_table(const Answer& answer, std::string& out);
    Answer call(TextOp op, std::int64_t number, std::span<const std::string_view> parts);
    base::Result<Peer> lease();
    base::Result<Peer> fork_peer();
    void replace_dead_host();
    void give_back(Peer peer);
    std::optional<int> end_peer(Peer peer);
    void close_idle();
    std::string why_ended(std::optional<int> status, int error, bool is_load) const;

    TextProcessOptions options_;
    SluiceTokenTable table_{};
    std::string table_bytes_, table_flags_, continuation_prefix_;
    std::vector<std::uint32_t> table_offsets_;

    mutable std::mutex mutex_;  // guards what follows; the host is asked under it
    std::condition_variable given_back_;
    Peer host_;
    bool is_child_ = true;  // the host is one of this process
    std::vector<Peer> idle_;
    std::size_t leased_ = 0;
    std::uint64_t lost_ = 0;
};

}  // namespace text
