#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "kv_transfer/codec/codec.h"

namespace kv_transfer {

/// How a hand-off ended, or why a message was refused: label `outcome` of sluice_kv_transfers_total.
enum class Outcome {
    ok,
    checksum_mismatch,
    stale_epoch,
    wrong_request,
    timeout,
    peer_lost,
    oversize,
    cancelled,
    no_capability
};
inline constexpr std::size_t kOutcomes = 9;

/// The outcome of a hand-off that failed with `code`.
Outcome outcome_of(base::ErrorCode code);
/// Of a message that was not even opened (frames.h, open_message()).
Outcome outcome_of_message(base::ErrorCode code);

/// The metrics of one direction. Thread-safe; does nothing when made without a registry.
class TransferMetrics {
public:
    /// `direction`: "send" or "receive"; `codecs`: those that its side has.
    TransferMetrics(base::Metrics* metrics, const std::string& direction, std::string_view transport,
                    const Codecs& codecs);

    void count(Outcome outcome);
    /// Of a frame that went so.
    void add_bytes(const KvMode& mode, std::uint64_t payload_bytes, std::uint64_t raw_bytes);
    void observe_duration(base::Duration duration);
    /// Of the receiving direction: a grant ended since nothing was heard from the other side for the lease.
    void count_expired_lease();
    void add_inflight(std::int64_t bytes);

private:
    std::array<prometheus::Counter*, kOutcomes> transfers_{};
    struct Bytes {
        const Codec* codec = nullptr;  // null: raw
        prometheus::Counter* payload = nullptr;
        prometheus::Counter* raw = nullptr;
    };
    std::vector<Bytes> bytes_;                   // raw, then each codec
    prometheus::Histogram* duration_ = nullptr;  // of the sending direction
    prometheus::Gauge* inflight_bytes_ = nullptr;
    prometheus::Counter* leases_expired_ = nullptr;
};

}  // namespace kv_transfer
