#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "gateway/explain/sequence_recorder.h"
#include "gateway/metrics.h"
#include "gateway/request/ports.h"
#include "gateway/request/retry_budget.h"
#include "gateway/request/sequence_observer.h"
#include "gateway/request/sequence_source.h"

namespace gateway {

/// Bounds of all sequences of a gateway.
struct RequestOptions {
    std::uint32_t placements_max = 5;  // of one sequence, the first counted
    base::Duration place_timeout = std::chrono::seconds(2);
    base::Duration place_wait_max = std::chrono::seconds(5);     // new request: no scheduler for so long -> unavailable
    base::Duration replace_wait_max = std::chrono::seconds(30);  // stream that lost its worker: no place for so long
    std::size_t generations_max = 4096;                          // sequences in flight
    RetryBudget::Options retries = {};                           // of all sequences together
    bool keeps_timelines = false;                                // for GenerationEnd::timeline
};

/// What every Generation works with; owned by the RequestTable.
struct GenerationContext {
    SchedulerPort& scheduler;
    WorkerPort& workers;
    const base::Clock& clock;
    ModelMetrics& metrics;
    const RequestOptions& options;
    RetryBudget& retries;
    const ClusterView& cluster;            // of the request's model
    const std::uint64_t& scheduler_epoch;  // the highest that was seen; 0: none
    const base::HashKey& hash_key;
    const std::string& model;              // as the cluster calls it
    SequenceObserver* observer = nullptr;  // null: none
};

/// The owner of one sequence: keeps its prompt, tokens, seed, deadline and epoch, and moves it from placement to its
/// end, elsewhere when a worker fails. Tokens do not depend on where they are computed, so the stream just goes on.
///
/// placing -> prefill -> transfer -> decode -> ended, back to placing when a worker fails; `waiting` is a pause before
/// the next try. A whole placement (path "local") goes from prefill to decode on one worker. No sockets, no gRPC, no
/// threads: driven by RequestTable on one thread.
class Generation {
public:
    enum class Phase { placing, waiting, prefill, transfer, decode, ended };

    Generation(base::RequestId id, GenerationRequest request, GenerationSink& sink,
               std::unique_ptr<Detokenizer> detokenizer, GenerationContext context);

    void start();
    /// False when the answer came too late to be used: a placement in it is then to be released.
    [[nodiscard]] bool on_place_answered(base::Epoch epoch, const base::Result<proto::PlaceReply>& reply);
    void on_output(base::Incarnation from, const proto::SequenceOutput& output);
    void on_worker_lost(base::Incarnation worker, const base::Error& error);
    /// Call when `wakes_at()` has come.
    void on_time();
    /// The client does not want it any more. Ends at once with reason cancelled.
    void cancel(std::string_view cause);

    std::optional<base::TimePoint> wakes_at() const;
    Phase phase() const { return phase_; }
    bool ended() const { return phase_ == Phase::ended; }

private:
    void place();
    void take_placement(const proto::Placement& placement);
    /// By its target; for a stream that lost its worker the next token is due as soon as a first one would be.
    std::optional<base::TimePoint> first_token_due(base::TimePoint now) const;
    /// When a request of a class that drops what is late is given up, as long as it has no token.
    std::optional<base::TimePoint> dropped_at() const;
    void send_start(const proto::WorkerEndpoint& to, proto::Start::Part part, const proto::WorkerEndpoint* peer);
    void send_continue();
    void send_cancel(const proto::WorkerEndpoint& to, std::string_view reason);
    /// `whole`: the output that brought it.
    void accept_token(const proto::TokenOutput& output, const proto::SequenceOutput& whole);
    /// The token where the client asked to stop at it: what stops a text otherwise is no reason that is told.
    std::optional<base::TokenId> asked_stop(base::TokenId token) const;
    void note_kv(const proto::SequenceOutput& output);
    void accept_vector(base::Incarnation from, const proto::SequenceOutput& output);
    void accept_finish(base::Incarnation from, const proto::SequenceOutput& output);
    /// This epoch has failed: place again, or fail when that cannot help.
    void attempt_failed(base::Incarnation worker, const base::Error& error);
    /// Nobody took the sequence: try again a little later, or fail when too late.
    void wait_for_place(const base::Error& error, std::uint32_t retry_after_ms);
    void close_epoch(std::string_view reason);
    void release(proto::ReleaseRequest::Ended::Phase phase);
    void fail(base::Error error, std::uint32_t retry_after_ms);
    void end(GenerationEnd end, std::string_view worker_reason);

    base::RequestId id_;
    GenerationRequest request_;
    SequenceHashes hashes_;
    GenerationSink& sink_;
    TextStream text_;
    GenerationContext context_;

    Phase phase_ = Phase::waiting;
    base::Epoch epoch_{};
    std::uint32_t placements_ = 0;       // accepted so far
    std::uint64_t numerics_id_ = 0;      // of the workers of the last placement
    std::uint64_t scheduler_epoch_ = 0;  // of the scheduler that made it
    bool placed_once_ = false;
    bool prompt_told_ = false;
    std::vector<base::TokenId> generated_;
    std::vector<std::uint64_t> avoid_;         // incarnations that failed this sequence
    SequenceRecorder record_;                  // off, or its timeline so far
    std::optional<base::TimePoint> began_at_;  // first token of all
    std::uint32_t cached_tokens_ = 0;
    bool cached_known_ = false;
    std::string kv_;  // GenerationEnd::kv

    // Of the current epoch.
    proto::WorkerEndpoint prefill_;
    proto::WorkerEndpoint decode_;
    double tenant_tokens_ = 0;  // as the scheduler said
    proto::KvMode kv_mode_;
    std::optional<proto::KvSource> kv_source_;  // who may have KV that the worker that prefills lacks
    bool workers_known_ = false;
    bool split_ = false;
    bool prefill_done_ = false;  // handed over or finished: needs no cancel
    bool decode_done_ = false;
    std::uint32_t epoch_tokens_ = 0;
    base::TimePoint placed_at_{};
    base::TimePoint first_token_at_{};
    base::TimePoint last_token_at_{};

    std::optional<base::TimePoint> try_at_;      // phase waiting
    std::optional<base::TimePoint> give_up_at_;  // since the last loss: no place until then -> failed
};

/// The name of a phase as metrics use it: queued, prefill, transfer, decode.
std::string_view phase_name(Generation::Phase phase);

}  // namespace gateway
