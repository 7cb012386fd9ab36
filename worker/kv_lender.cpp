#include "worker/kv_lender.h"

#include <algorithm>
#include <memory>
#include <span>
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
    switch (event.kind) {
        case Kind::fetch_requested:
        case Kind::granted:
        case Kind::later:
            return;
        case Kind::completed:
            lent_total_.Increment(at->second.blocks);
            return;
        case Kind::failed:
            spdlog::debug("fetch {} ended: {}", kv_transfer::to_string(event.key),
                          event.error ? base::log_safe(event.error->message) : "");
            return;
        case Kind::released:
            blocks_lent_ -= static_cast<std::uint32_t>(at->second.hold.blocks().size());
            lent_.erase(at);
            return;
    }
}

void KvLender::refuse(const kv_transfer::SenderEvent& asked, ErrorCode code, std::string why) {
    port_.refuse_fetch(asked.key, base::Error{code, std::move(why)}, asked.slot);
}

void KvLender::answer(const kv_transfer::SenderEvent& asked) {
    if (is_ending_) { return refuse(asked, ErrorCode::unavailable, "the worker is shutting down"); }
    kv_cache::KvCache& cache = control_.cache();
    const std::uint32_t lent_max = std::max(1u, cache.options().blocks_total / kLentShare);
    if (blocks_lent_ >= lent_max) {
        return refuse(asked, ErrorCode::resource_exhausted,
                      std::to_string(blocks_lent_) + " KV blocks are lent, the limit");
    }
    const std::uint32_t blocks_max = lent_max - blocks_lent_;
    if (tiers_ != nullptr && load_first(asked, blocks_max)) { return; }
    const kv_cache::PrefixMatch match = cache.match(asked.hashes, blocks_max * cache.options().block_tokens);
    if (match.blocks().empty()) { return refuse(asked, ErrorCode::not_found, "the KV of these blocks is not here"); }
    lend(asked, cache.hold(match), static_cast<std::uint32_t>(match.blocks().size()));
}

/// False: the pool has as much of it, or there is no room; what it has can be lent at once.
bool KvLender::load_first(const kv_transfer::SenderEvent& asked, std::uint32_t blocks_max) {
    kv_cache::KvCache& cache = control_.cache();
    const std::uint32_t block_tokens = cache.options().block_tokens;
    const auto run = std::span(asked.hashes).first(std::min<std::size_t>(asked.hashes.size(), blocks_max));
    const std::uint32_t below = tiers_->blocks_below(run);
    kv_cache::PrefixMatch match = cache.match(run, blocks_max * block_tokens);
    const auto first = static_cast<std::uint32_t>(match.blocks().size());
    if (below <= first || below - first > cache.blocks_available() / kLentShare) { return false; }
    auto memory = cache.open(std::move(match), below * block_tokens);
    if (!memory) { return false; }
    auto whole = std::make_shared<kv_cache::BlockHold>(cache.hold(*memory, 0, below));
    kv_cache::BlockHold target = cache.hold(*memory, first, below - first);
    memory->close();  // the holds keep it
    const auto loaded = [this, asked, whole, below](std::uint32_t blocks) {
        blocks_lent_ -= below;
        if (is_ending_) { return refuse(asked, ErrorCode::unavailable, "the worker is shutting down"); }
        if (blocks == 0) { return refuse(asked, ErrorCode::not_found, "the KV of these blocks could not be loaded"); }
        lend(asked, std::move(*whole), blocks);
    };
    if (!tiers_->load_run(run, first, std::move(target), loaded)) { return false; }
    blocks_lent_ += below;
    return true;
}

/// The first `blocks` of `hold`.
void KvLender::lend(const kv_transfer::SenderEvent& asked, kv_cache::BlockHold hold, std::uint32_t blocks) {
    const std::uint32_t tokens = blocks * control_.cache().options().block_tokens;
    const auto opened =
        port_.open({.key = asked.key,
                    .kv_address = {},
                    .kv_tokens = tokens,
                    .blocks = hold.blocks().first(blocks),
                    .deadline = std::min(asked.deadline, control_.clock().now() + options_.handoff_timeout),
                    .fetch_slot = asked.slot});
    if (!opened) { return refuse(asked, opened.error().code, opened.error().message); }
    port_.ready(asked.key, 0, layers_, 0, tokens);
    blocks_lent_ += static_cast<std::uint32_t>(hold.blocks().size());
    lent_.insert_or_assign(asked.key, Loan{std::move(hold), blocks});
}

void KvLender::ending() {
    is_ending_ = true;
    for (const auto& [key, loan] : lent_) {
        port_.abort(key, base::Error{ErrorCode::unavailable, "the worker is shutting down"});
    }
}

}  // namespace worker
