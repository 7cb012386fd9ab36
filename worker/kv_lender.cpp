#include "worker/kv_lender.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/log.h"

namespace worker {

using base::ErrorCode;

namespace {

constexpr std::uint32_t kLentShare = 4;  // one part of so many of the pool

}  // namespace

KvLender::KvLender(const WorkerOptions& options, std::uint32_t layers, StepControl& control, KvLendPort& port,
                   base::Metrics& metrics)
    : options_(options),
      layers_(layers),
      control_(control),
      port_(port),
      lent_total_(metrics.counter("sluice_kv_lent_blocks_total", "KV blocks that other workers fetched from here")) {}

void KvLender::on_event(kv_transfer::SenderEvent event) {
    using Kind = kv_transfer::SenderEvent::Kind;
    if (event.kind == Kind::granted || event.kind == Kind::later) { return; }
    const auto key = event.key;
    if (!control_.post([this, event = std::move(event)] { apply(event); })) {
        spdlog::debug("event of fetch {} came after the end", kv_transfer::to_string(key));
    }
}

void KvLender::apply(const kv_transfer::SenderEvent& event) {
    using Kind = kv_transfer::SenderEvent::Kind;
    if (event.kind == Kind::fetch_requested) { return answer(event); }
    const auto at = lent_.find(event.key);
    if (at == lent_.end()) { return; }
    const auto blocks = static_cast<std::uint32_t>(at->second.blocks().size());
    switch (event.kind) {
        case Kind::fetch_requested:
        case Kind::granted:
        case Kind::later:
            return;
        case Kind::completed:
            lent_total_.Increment(blocks);
            return;
        case Kind::failed:
            spdlog::debug("fetch {} ended: {}", kv_transfer::to_string(event.key),
                          event.error ? base::log_safe(event.error->message) : "");
            return;
        case Kind::released:
            blocks_lent_ -= blocks;
            lent_.erase(at);
            return;
    }
}

void KvLender::answer(const kv_transfer::SenderEvent& asked) {
    const auto refuse = [&](ErrorCode code, std::string why) {
        port_.refuse_fetch(asked.key, base::Error{code, std::move(why)}, asked.slot);
    };
    if (is_ending_) { return refuse(ErrorCode::unavailable, "the worker is shutting down"); }
    kv_cache::KvCache& cache = control_.cache();
    const std::uint32_t lent_max = std::max(1u, cache.options().blocks_total / kLentShare);
    if (blocks_lent_ >= lent_max) {
        return refuse(ErrorCode::resource_exhausted, std::to_string(blocks_lent_) + " KV blocks are lent, the limit");
    }
    const kv_cache::PrefixMatch match =
        cache.match(asked.hashes, (lent_max - blocks_lent_) * cache.options().block_tokens);
    if (match.blocks().empty()) { return refuse(ErrorCode::not_found, "the KV of these blocks is not here"); }
    kv_cache::BlockHold hold = cache.hold(match);
    const auto opened =
        port_.open({.key = asked.key,
                    .kv_address = {},
                    .kv_tokens = match.tokens(),
                    .blocks = hold.blocks(),
                    .deadline = std::min(asked.deadline, control_.clock().now() + options_.handoff_timeout),
                    .fetch_slot = asked.slot});
    if (!opened) { return refuse(opened.error().code, opened.error().message); }
    port_.ready(asked.key, 0, layers_, 0, match.tokens());
    blocks_lent_ += static_cast<std::uint32_t>(hold.blocks().size());
    lent_.insert_or_assign(asked.key, std::move(hold));
}

void KvLender::ending() {
    is_ending_ = true;
    for (const auto& [key, hold] : lent_) {
        port_.abort(key, base::Error{ErrorCode::unavailable, "the worker is shutting down"});
    }
}

}  // namespace worker
