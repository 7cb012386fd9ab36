// What the receiver does for KV that this worker fetches, until the other worker has answered with a request for room,
// which is there: from then on a fetch is a hand-off like any other (receiver_loop.cpp). The contract stands in
// receiver.h.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kv_transfer/receiver_state.h"
#include "proto/block_hashes.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

Result<void> KvReceiver::fetch(const FetchKv& wanted) {
    CHECK(wanted.key.is_fetch() && wanted.key.decode == state_->identity.incarnation, to_string(wanted.key));
    CHECK(!wanted.hashes.empty() && wanted.hashes.size() <= kFetchBlocksMax &&
              wanted.blocks.size() == wanted.hashes.size(),
          wanted.hashes.size() << " hashes, " << wanted.blocks.size() << " blocks");
    CHECK(wanted.answer_timeout > base::Duration::zero() && wanted.lease > base::Duration::zero());
    for (const base::BlockId block : wanted.blocks) {
        CHECK(base::raw(block) < state_->store.blocks_total());
    }
    const std::scoped_lock lock(state_->mutex);
    if (state_->is_stopped) { return base::fail(ErrorCode::unavailable, "KV receiver has stopped"); }
    if (state_->fetch_slots.used() >= state_->options.fetches_max) {
        return base::fail(ErrorCode::resource_exhausted,
                          std::to_string(state_->options.fetches_max) + " fetches are under way");
    }
    state_->thread.push(State::Fetch{wanted.key, wanted.kv_address, proto::write_block_hashes(wanted.hashes),
                                     std::vector<base::BlockId>(wanted.blocks.begin(), wanted.blocks.end()),
                                     wanted.answer_timeout, wanted.lease, wanted.deadline, state_->fetch_slots.take()});
    return {};
}

void KvReceiver::State::apply(Fetch& command) {
    const base::TimePoint now = clock.now();
    const auto [fetch, is_new] = handoffs.try_emplace(command.key);
    CHECK(is_new, "fetch " << to_string(command.key) << " is under way already");
    handoffs_open = handoffs.size();
    Handoff& handoff = fetch->second;
    handoff.phase = Handoff::Phase::fetching;
    handoff.deadline = command.deadline;
    handoff.heard_at = now;
    handoff.slot = std::move(command.slot);
    handoff.hashes = std::move(command.hashes);
    handoff.blocks = std::move(command.blocks);
    handoff.answer_timeout = command.answer_timeout;
    handoff.lease = command.lease;
    const auto peer = transport.connect(command.kv_address);
    if (!peer) { return fail(fetch, peer.error(), false); }
    handoff.peer = *peer;
    ask_for_blocks(command.key, handoff, now);
}

void KvReceiver::State::ask_for_blocks(const HandoffKey& key, Handoff& handoff, base::TimePoint now) {
    sluice::proto::KvFetch message;
    set_header(*message.mutable_header(), identity);
    set_key(*message.mutable_handoff(), key, identity);
    message.set_block_hashes(handoff.hashes);
    message.set_deadline_in_us(base::time_left_us(handoff.deadline, now));
    post(handoff.peer, kFetch, message);
    handoff.ask_again_at = now + options.fetch_interval;
}

/// The other worker says how much it has. The room for it was reserved before it was asked.
void KvReceiver::State::take_answer(Handoffs::iterator fetch, Asked& answer) {
    Handoff& handoff = fetch->second;
    handoff.peer = answer.from;
    const std::size_t tokens_max = handoff.blocks.size() * layout.block_tokens();
    if (answer.kv_tokens == 0 || answer.kv_tokens > tokens_max || answer.kv_tokens % layout.block_tokens() != 0) {
        return fail(fetch,
                    {ErrorCode::internal, "offers " + std::to_string(answer.kv_tokens) +
                                              " tokens of KV, asked for were up to " + std::to_string(tokens_max) +
                                              " in blocks of " + std::to_string(layout.block_tokens())},
                    true);
    }
    handoff.kv_tokens = answer.kv_tokens;
    handoff.deadline = std::min(handoff.deadline, answer.deadline);
    agree(handoff, answer.kv_mode, answer.kv_modes, /*allow_lossy=*/false);
    begin_receiving(fetch, clock.now());
}

}  // namespace kv_transfer
