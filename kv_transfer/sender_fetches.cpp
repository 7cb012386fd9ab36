// What the sender does for workers that fetch KV, until the step thread has answered; from then on a fetch is a
// hand-off like any other (sender_loop.cpp). The contract stands in sender.h.
#include <string>
#include <utility>

#include "kv_transfer/sender_state.h"
#include "proto/block_hashes.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

/// On the transport's thread. What is refused here is told to the asker, who computes instead of waiting.
Result<net::Target> KvSender::State::fetch_begins(net::PeerId from, std::span<const std::byte> header) {
    sluice::proto::KvFetch fetch;
    if (auto opened = open_message(kFetch, header, identity, fetch); !opened) {
        // Nobody to answer to: it is repeated.
        metrics.count(outcome_of_message(opened.error().code));
        return base::pass_on(opened);
    }
    const HandoffKey key = key_of(fetch.handoff());
    const auto refuse = [&](Outcome outcome, base::Error error) -> Result<net::Target> {
        metrics.count(outcome);
        tell_abort(from, key, error);
        return tl::unexpected(std::move(error));
    };
    if (const auto checked = check_header(fetch.header(), identity); !checked) {
        return refuse(Outcome::wrong_request, checked.error());
    }
    if (key.prefill != identity.incarnation) {
        return refuse(Outcome::stale_epoch, {ErrorCode::failed_precondition, "for another life of this worker"});
    }
    auto hashes = proto::read_block_hashes(fetch.block_hashes());
    if (!hashes || hashes->empty() || hashes->size() > kFetchBlocksMax || !key.is_fetch()) {
        return refuse(Outcome::wrong_request,
                      {ErrorCode::invalid_argument,
                       "a fetch names 1 to " + std::to_string(kFetchBlocksMax) + " blocks and its run, not " +
                           std::to_string(fetch.block_hashes().size()) + " bytes, run " + std::to_string(key.run)});
    }
    // Dropped when too many wait: it is repeated.
    if (!thread.offer(Fetch{from, key, std::move(*hashes), base::deadline_in(fetch.deadline_in_us(), clock.now())})) {
        return base::fail(ErrorCode::resource_exhausted, "too many messages wait");
    }
    return net::Target{};
}

void KvSender::State::apply(Fetch& command) {
    const base::TimePoint now = clock.now();
    peer_heard_at[command.from] = now;
    if (find(command.key) != handoffs.end()) { return; }  // answered: the request for room is repeated by its own timer
    if (const auto known = asked_fetches.find(command.key); known != asked_fetches.end()) {
        known->second.peer = command.from;
        return;
    }
    if (command.deadline <= now) {
        return tell_abort(command.from, command.key, {ErrorCode::deadline_exceeded, "fetched after the deadline"});
    }
    if (fetch_slots.used() >= options.fetches_max) {
        return tell_abort(
            command.from, command.key,
            {ErrorCode::resource_exhausted, std::to_string(options.fetches_max) + " fetches are under way here"});
    }
    const Slots::Slot slot = fetch_slots.take();
    asked_fetches[command.key] = {command.from, command.deadline, slot};
    events({.kind = SenderEvent::Kind::fetch_requested,
            .key = command.key,
            .slot = slot,
            .hashes = std::move(command.hashes),
            .deadline = command.deadline});
}

void KvSender::State::apply(RefuseFetch& command) {
    if (const auto asker = take_fetch(command.key)) { tell_abort(*asker, command.key, command.error); }
}

/// The worker that asked, which from now on is not waited for here. Empty: it has given up, or is gone.
std::optional<net::PeerId> KvSender::State::take_fetch(const HandoffKey& key) {
    const auto asked = asked_fetches.find(key);
    if (asked == asked_fetches.end()) { return std::nullopt; }
    const net::PeerId peer = asked->second.peer;
    asked_fetches.erase(asked);
    return peer;
}

bool KvSender::State::forget_late_fetches(base::TimePoint now) {
    return std::erase_if(asked_fetches, [now](const auto& entry) { return now >= entry.second.deadline; }) > 0;
}

void KvSender::State::forget_fetches_of(net::PeerId peer) {
    std::erase_if(asked_fetches, [peer](const auto& entry) { return entry.second.peer == peer; });
}

}  // namespace kv_transfer
