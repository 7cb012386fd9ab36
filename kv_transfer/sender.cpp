#include "kv_transfer/sender.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "kv_transfer/sender_state.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

namespace {
constexpr std::size_t kMessagesMax = 65536;  // mostly `ready`: layers x chunks of all open hand-offs
}

KvSender::State::State(Options options_in, Identity identity_in, const kv_cache::KvLayout& layout_in,
                       kv_cache::KvStore& store_in, net::Transport& transport_in, const base::Clock& clock_in,
                       base::Metrics* metrics_in, SenderEvents events_in)
    : options(options_in),
      identity(std::move(identity_in)),
      layout(layout_in),
      store(store_in),
      access(kv_cache::KvAccess::make(store_in)),
      transport(transport_in),
      clock(clock_in),
      events(std::move(events_in)),
      frame_bytes_max(std::min(options_in.frame_bytes_max, transport_in.limits().payload_bytes_max)),
      peer_frames_max(std::max<std::size_t>(1, options_in.staging_buffers - options_in.staging_buffers / 4)),
      metrics(metrics_in, "send", transport_in.name(), options_in.codecs),
      // One `Open` for each hand-off that is open is pushed, and one answer for each fetch.
      thread({.messages_max = kMessagesMax,
              .reserve = options_in.handoffs_max + options_in.fetches_max,
              .own_thread = options_in.own_thread,
              .name = "kv-send"},
             clock_in,
             {.apply = [this](Command& command) { std::visit([this](auto& value) { apply(value); }, command); },
              .proceed = [this](base::TimePoint now) { return proceed(now); },
              .next_due = [this] { return next_due(); }}),
      staging(store_in.device(), options_in.staging_buffers + (options_in.codecs.empty() ? 0 : 1),
              options_in.codecs.bound(frame_bytes_max), [this] { thread.wake(); }) {
    if (!options.codecs.empty()) { workspace = staging.take(); }
    rates = believed_rates(options.codecs);
    CHECK(layout.wire_bytes({0, 1, 0, 1}) <= frame_bytes_max, "a frame must hold one layer of one token");
    CHECK(options.inflight_bytes_max >= frame_bytes_max);
    CHECK(transport.limits().header_bytes_max >= kHeaderBytesMax);
}

KvSender::KvSender(Options options, Identity identity, const kv_cache::KvLayout& layout, kv_cache::KvStore& store,
                   net::Transport& transport, const base::Clock& clock, base::Metrics* metrics, SenderEvents events)
    : state_(std::make_unique<State>(options, std::move(identity), layout, store, transport, clock, metrics,
                                     std::move(events))) {
    state_->thread.start();
}

KvSender::~KvSender() {
    stop();
}

Result<void> KvSender::open(const OpenHandoff& handoff) {
    if (handoff.kv_tokens == 0 || handoff.blocks.size() < state_->layout.blocks_for(handoff.kv_tokens)) {
        return base::fail(ErrorCode::invalid_argument, std::to_string(handoff.blocks.size()) + " blocks for " +
                                                           std::to_string(handoff.kv_tokens) + " tokens");
    }
    for (const base::BlockId block : handoff.blocks) {
        CHECK(base::raw(block) < state_->store.blocks_total());
    }
    CHECK(handoff.key.is_fetch() == (handoff.fetch_slot != nullptr), "hand-off " << to_string(handoff.key));
    std::vector<KvMode> modes;
    if (handoff.choose_mode) {
        modes = state_->options.codecs.modes();
        if (!handoff.allow_lossy) {
            std::erase_if(modes, [](const KvMode& mode) { return mode.is_lossy(); });
        }
    } else {
        const auto mode = state_->options.codecs.find(handoff.kv_mode);
        if (!mode) { spdlog::debug("hand-off {} goes raw: {}", to_string(handoff.key), mode.error().message); }
        if (mode && !mode->is_raw()) { modes = {*mode}; }
    }
    const std::scoped_lock lock(state_->mutex);
    if (state_->is_stopped) { return base::fail(ErrorCode::unavailable, "KV sender has stopped"); }
    if (!handoff.key.is_fetch() && state_->slots.used() >= state_->options.handoffs_max) {
        return base::fail(ErrorCode::resource_exhausted,
                          std::to_string(state_->options.handoffs_max) + " hand-offs are open");
    }
    if (!state_->open_keys.insert(handoff.key).second) {
        return base::fail(ErrorCode::failed_precondition, "hand-off " + to_string(handoff.key) + " is open already");
    }
    state_->thread.push(State::Open{handoff.key, handoff.kv_address, handoff.kv_tokens,
                                    std::vector<base::BlockId>(handoff.blocks.begin(), handoff.blocks.end()),
                                    handoff.deadline, std::move(modes), handoff.choose_mode, handoff.due,
                                    handoff.computing, handoff.computing_whole,
                                    handoff.key.is_fetch() ? handoff.fetch_slot : state_->slots.take()});
    return {};
}

void KvSender::refuse_fetch(const HandoffKey& key, base::Error error, Slots::Slot fetch_slot) {
    CHECK(key.is_fetch() && fetch_slot != nullptr, "hand-off " << to_string(key));
    state_->thread.push(State::RefuseFetch{key, std::move(error), std::move(fetch_slot)});
}

void KvSender::ready(const HandoffKey& key, std::uint32_t layer_begin, std::uint32_t layer_end,
                     std::uint32_t token_begin, std::uint32_t token_end) {
    CHECK(layer_begin <= layer_end && layer_end <= state_->layout.layers() && token_begin <= token_end);
    if (layer_begin == layer_end || token_begin == token_end) { return; }
    const std::scoped_lock lock(state_->mutex);
    if (!state_->open_keys.contains(key)) { return; }
    if (!state_->thread.offer(State::Ready{key, {layer_begin, layer_end, token_begin, token_end}})) {
        state_->ended_keys.try_emplace(key, base::Error{ErrorCode::resource_exhausted, "the KV sender cannot keep up"});
    }
}

void KvSender::abort(const HandoffKey& key, base::Error error) {
    const std::scoped_lock lock(state_->mutex);
    if (!state_->open_keys.contains(key)) { return; }
    state_->ended_keys.try_emplace(key, std::move(error));
    state_->thread.wake();
}

void KvSender::stop() {
    {
        const std::scoped_lock lock(state_->mutex);
        if (state_->is_stopped) { return; }
        state_->is_stopped = true;
    }
    state_->thread.stop();
    state_->fail_all({ErrorCode::unavailable, "this worker stops"});
}

bool KvSender::tick() {
    return state_->thread.tick();
}

std::size_t KvSender::handoffs_open() const {
    const std::scoped_lock lock(state_->mutex);
    return state_->open_keys.size();
}

std::size_t KvSender::inflight_bytes() const {
    return state_->inflight_bytes.load();
}

Result<net::Target> KvSender::on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                        std::size_t payload_bytes) {
    if (payload_bytes != 0) { return base::fail(ErrorCode::invalid_argument, "a payload was not expected"); }
    if (kind == kFetch) { return state_->fetch_begins(from, header); }
    // What to do with a message once its header is understood; dropped when too many wait, because it will be repeated.
    const auto take = [&](auto& message, auto make_command) -> Result<net::Target> {
        if (auto opened = open_message(kind, header, state_->identity, message); !opened) {
            state_->metrics.count(outcome_of_message(opened.error().code));
            return base::pass_on(opened);
        }
        if (auto checked = check_header(message.header(), state_->identity); !checked) {
            state_->metrics.count(Outcome::wrong_request);
            return base::pass_on(checked);
        }
        const HandoffKey key = key_of(message.handoff());
        if (key.prefill != state_->identity.incarnation) {
            state_->metrics.count(Outcome::stale_epoch);
            return base::fail(ErrorCode::failed_precondition, "for another life of this worker");
        }
        if (!state_->thread.offer(make_command(key))) {
            return base::fail(ErrorCode::resource_exhausted, "too many messages wait");
        }
        return net::Target{};
    };
    if (kind == kRoomReply) {
        sluice::proto::RoomReply reply;
        return take(reply, [&](const HandoffKey& key) {
            return State::Reply{from,
                                key,
                                reply.answer(),
                                reply.have_tokens(),
                                proto::error_of(reply.error()),
                                reply.kv_mode(),
                                {reply.kv_modes().begin(), reply.kv_modes().end()},
                                reply.from_end()};
        });
    }
    if (kind == kAck) {
        sluice::proto::KvAck ack;
        return take(ack, [&](const HandoffKey& key) {
            std::optional<base::Error> error;
            if (ack.error().code() != 0) { error = proto::error_of(ack.error()); }
            return State::Ack{from,
                              key,
                              ack.number(),
                              std::move(error),
                              ack.complete(),
                              std::chrono::microseconds(ack.landed_us()),
                              std::chrono::microseconds(ack.decoded_us())};
        });
    }
    if (kind == kAbortToPrefill) {
        sluice::proto::KvAbort abort;
        return take(abort, [&](const HandoffKey& key) { return State::Abort{key, proto::error_of(abort.error())}; });
    }
    return base::fail(ErrorCode::unimplemented, "message kind " + std::to_string(net::raw(kind)));
}

void KvSender::on_payload(net::ReceiveToken, base::Result<void>) {
    CHECK(false, "the sender gives no targets");
}

void KvSender::on_peer_lost(net::PeerId peer, const base::Error& why) {
    // Dropped only when the thread is far behind: then the peer's silence ends its hand-offs.
    static_cast<void>(state_->thread.offer(State::PeerLost{peer, why}));
}

}  // namespace kv_transfer
