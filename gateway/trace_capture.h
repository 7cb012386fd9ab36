#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/request/sequence_observer.h"

namespace gateway {

/// Section `capture` of the configuration.
struct CaptureOptions {
    std::string file;                             // empty: nothing is captured
    std::uint64_t bytes_max = 256u << 20;         // of the file; then no further rows
    std::uint32_t block_tokens = 512;             // of a row's blocks, in whole KV blocks: Mooncake's
    std::string session_header = "x-session-id";  // field, in lower case, by which clients name a conversation

    bool is_on() const { return !file.empty(); }
    /// Bad values are reported by Config::finish().
    static CaptureOptions read(base::Config& config);
};

/// What is kept of one sequence that has ended: lengths and times, no token and no text.
struct CapturedRow {
    base::TimePoint received_at{};
    base::TimePoint ended_at{};
    std::uint32_t prompt_tokens = 0;
    std::uint32_t output_tokens = 0;
    std::uint32_t block_tokens = 0;
    std::vector<base::BlockHash> blocks;  // of the prompt's full blocks, as the cluster names them
    std::string session;                  // tenant and name of the conversation; empty: none
    std::string model;
    std::string slo_class;
};

/// Makes lines of a trace in Mooncake's form: `timestamp` and `delay` (ms), `input_length`, `output_length`,
/// `hash_ids` of `block_tokens` tokens, and of ours `session_id`, `model`, `slo_class`. Blocks and conversations are
/// named anew under a key that nobody keeps, so that a trace can be given away: it tells which prompts begin alike, and
/// nothing can be looked up in it. Not thread-safe.
class CaptureLines {
public:
    CaptureLines(const base::HashKey& key, base::TimePoint began_at) : key_(key), began_at_(began_at) {}
    std::string line(const CapturedRow& row);

    static constexpr std::size_t kSessionsMax = 65'536;  // remembered; who comes back later begins a new one

private:
    struct Session {
        std::uint64_t id = 0;
        base::TimePoint ended_at{};
    };
    base::HashKey key_;
    base::TimePoint began_at_;
    std::unordered_map<base::BlockHash, Session> sessions_;
    std::deque<base::BlockHash> oldest_;  // in the order in which they came
    std::uint64_t next_session_ = 1;
};

/// A file of lines that never grows beyond its bound and always ends with a whole line. Not thread-safe.
class CaptureFile {
public:
    /// Begins anew; what was there becomes FILE.old. Error: unavailable with the reason.
    static base::Result<std::unique_ptr<CaptureFile>> open(const std::string& path, std::uint64_t bytes_max);
    ~CaptureFile();
    CaptureFile(const CaptureFile&) = delete;
    CaptureFile& operator=(const CaptureFile&) = delete;

    /// Error: resource_exhausted: it is as large as it may get; unavailable: the disk is full, or worse. Nothing of the
    /// line is left then.
    base::Result<void> add(std::string_view line);

private:
    CaptureFile(int descriptor, std::uint64_t bytes_max) : descriptor_(descriptor), bytes_max_(bytes_max) {}
    int descriptor_;
    std::uint64_t bytes_max_;
    std::uint64_t bytes_ = 0;
};

/// Writes a trace of what was served, for `sluice plan fit` and `sluice simulate --trace`. Sequences are told by the
/// I/O thread; a thread of its own writes, from a bounded queue. A full queue, a full file and a full disk cost rows,
/// which are counted, and nothing else.
class TraceCapture final : public SequenceObserver {
public:
    /// Takes a line with its end. Called on the writing thread.
    using Sink = std::function<base::Result<void>(std::string_view line)>;
    struct Setup {
        CaptureOptions options;
        Sink sink;
        base::Metrics& metrics;
        const base::Clock& clock;
        base::HashKey key = base::random_hash_key();
        std::size_t rows_max = 4096;  // waiting
    };
    /// Into `options.file`. Error: as CaptureFile::open.
    static base::Result<std::unique_ptr<TraceCapture>> start(const CaptureOptions& options, base::Metrics& metrics,
                                                             const base::Clock& clock);
    explicit TraceCapture(Setup setup);
    /// Writes what waits.
    ~TraceCapture() override;

    void on_sequence_end(const GenerationRequest& request, const GenerationEnd& end, std::string_view model) override;

private:
    void write();

    Setup setup_;
    CaptureLines lines_;
    prometheus::Counter& written_;
    prometheus::Counter& queue_full_;
    prometheus::Counter& file_full_;
    prometheus::Counter& failed_;
    prometheus::Counter& without_tokens_;
    base::BoundedQueue<CapturedRow> rows_;
    std::jthread writer_;
};

}  // namespace gateway
