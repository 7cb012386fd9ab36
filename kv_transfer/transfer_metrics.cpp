#include "kv_transfer/transfer_metrics.h"

namespace kv_transfer {

using base::ErrorCode;

namespace {
constexpr std::array<const char*, kOutcomes> kOutcomeNames{
    "ok",        "checksum_mismatch", "stale_epoch", "wrong_request", "timeout",
    "peer_lost", "oversize",          "cancelled",   "no_capability"};
}

Outcome outcome_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::data_loss:
            return Outcome::checksum_mismatch;
        case ErrorCode::deadline_exceeded:
            return Outcome::timeout;
        case ErrorCode::unavailable:
            return Outcome::peer_lost;
        case ErrorCode::cancelled:
        case ErrorCode::aborted:
        case ErrorCode::resource_exhausted:
            return Outcome::cancelled;
        default:
            return Outcome::wrong_request;
    }
}

Outcome outcome_of_message(ErrorCode code) {
    return code == ErrorCode::permission_denied ? Outcome::no_capability : outcome_of(code);
}

TransferMetrics::TransferMetrics(base::Metrics* metrics, const std::string& direction, std::string_view transport,
                                 const Codecs& codecs) {
    if (metrics == nullptr) { return; }
    const std::string name(transport);
    for (std::size_t i = 0; i < kOutcomes; ++i) {
        transfers_[i] = &metrics->counter(
            "sluice_kv_transfers_total", "KV hand-offs by how they ended, and refused messages by why",
            {{"direction", direction}, {"transport", name}, {"outcome", kOutcomeNames[i]}});
    }
    // What frames may be coded by: single ones, and whole hand-offs, go raw all the same.
    const std::string codecs_here = codecs.empty() ? "raw" : codecs.names().front();
    const base::Metrics::Labels codec{{"direction", direction}, {"transport", name}, {"codec", codecs_here}};
    payload_bytes_ = &metrics->counter("sluice_kv_transfer_bytes_total", "Bytes of KV frames on the wire", codec);
    raw_bytes_ = &metrics->counter("sluice_kv_transfer_raw_bytes_total", "Bytes of KV frames before the codec", codec);
    if (direction == "send") {
        duration_ = &metrics->histogram("sluice_kv_transfer_duration_seconds",
                                        "From the grant to the last acknowledgement of a KV hand-off",
                                        base::ttft_edges(), {{"transport", name}});
        inflight_bytes_ = &metrics->gauge("sluice_kv_transfer_inflight_bytes",
                                          "Bytes of KV frames sent and not yet acknowledged", {{"transport", name}});
    }
}

void TransferMetrics::count(Outcome outcome) {
    if (prometheus::Counter* counter = transfers_[static_cast<std::size_t>(outcome)]) { counter->Increment(); }
}

void TransferMetrics::add_bytes(std::uint64_t payload_bytes, std::uint64_t raw_bytes) {
    if (payload_bytes_ == nullptr) { return; }
    payload_bytes_->Increment(static_cast<double>(payload_bytes));
    raw_bytes_->Increment(static_cast<double>(raw_bytes));
}

void TransferMetrics::observe_duration(base::Duration duration) {
    if (duration_ != nullptr) { duration_->Observe(std::chrono::duration<double>(duration).count()); }
}

void TransferMetrics::add_inflight(std::int64_t bytes) {
    if (inflight_bytes_ != nullptr) { inflight_bytes_->Increment(static_cast<double>(bytes)); }
}

}  // namespace kv_transfer
