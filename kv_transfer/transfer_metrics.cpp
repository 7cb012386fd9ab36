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
    const auto add = [&](const Codec* codec) {
        const std::string codec_name(codec == nullptr ? "raw" : codec->name());
        const base::Metrics::Labels labels{{"direction", direction}, {"transport", name}, {"codec", codec_name}};
        bytes_.push_back(
            {codec, &metrics->counter("sluice_kv_transfer_bytes_total", "Bytes of KV frames on the wire", labels),
             &metrics->counter("sluice_kv_transfer_raw_bytes_total", "Bytes of KV frames before the codec", labels)});
    };
    add(nullptr);
    for (const Codec* codec : codecs.all()) {
        add(codec);
    }
    if (direction == "send") {
        duration_ = &metrics->histogram("sluice_kv_transfer_duration_seconds",
                                        "From the grant to the last acknowledgement of a KV hand-off",
                                        base::ttft_edges(), {{"transport", name}});
        inflight_bytes_ = &metrics->gauge("sluice_kv_transfer_inflight_bytes",
                                          "Bytes of KV frames sent and not yet acknowledged", {{"transport", name}});
    } else {
        leases_expired_ = &metrics->counter("sluice_kv_leases_expired_total",
                                            "Room granted for KV that was taken back, since its sender fell silent");
    }
}

void TransferMetrics::count(Outcome outcome) {
    if (prometheus::Counter* counter = transfers_[static_cast<std::size_t>(outcome)]) { counter->Increment(); }
}

void TransferMetrics::add_bytes(const KvMode& mode, std::uint64_t payload_bytes, std::uint64_t raw_bytes) {
    for (const Bytes& counted : bytes_) {
        if (counted.codec != mode.codec) { continue; }
        counted.payload->Increment(static_cast<double>(payload_bytes));
        counted.raw->Increment(static_cast<double>(raw_bytes));
    }
}

void TransferMetrics::observe_duration(base::Duration duration) {
    if (duration_ != nullptr) { duration_->Observe(std::chrono::duration<double>(duration).count()); }
}

void TransferMetrics::count_expired_lease() {
    if (leases_expired_ != nullptr) { leases_expired_->Increment(); }
}

void TransferMetrics::add_inflight(std::int64_t bytes) {
    if (inflight_bytes_ != nullptr) { inflight_bytes_->Increment(static_cast<double>(bytes)); }
}

}  // namespace kv_transfer
