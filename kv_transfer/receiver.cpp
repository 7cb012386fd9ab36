#include "kv_transfer/receiver.h"
#include "kv_transfer/rate/bandwidth.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kv_transfer/rate/bandwidth.h"
#include "kv_transfer/receiver_state.h"
#include "proto/header.h"

namespace kv_transfer {

using base::ErrorCode;
using base::Result;

namespace {
constexpr std::size_t kMessagesMax = 16384;
constexpr std::size_t kCallsPerFetch = 4;  // it begins and may be aborted, perhaps a little after its end
}  // namespace

KvReceiver::State::State(Options options_in, Identity identity_in, const kv_cache::KvLayout& layout_in,
                         kv_cache::KvStore& store_in, net::Transport& transport_in, const base::Clock& clock_in,
                         base::Metrics* metrics_in, ReceiverEvents events_in)
    : options(options_in),
      identity(std::move(identity_in)),
      layout(layout_in),
      store(store_in),
      access(kv_cache::KvAccess::make(store_in)),
      transport(transport_in),
      clock(clock_in),
      events(std::move(events_in)),
      metrics(metrics_in, "receive", transport_in.name(), options_in.codecs),
      staging(store_in.device(), options_in.staging_buffers + (options_in.codecs.empty() ? 0 : 1),
              options_in.frame_bytes_max, nullptr),
      // Calls of the step thread and frames that have landed are pushed.
      thread({.messages_max = kMessagesMax,
              .reserve = kCallsPerHandoff * options_in.handoffs_max + kCallsPerFetch * options_in.fetches_max +
                         options_in.staging_buffers,
              .own_thread = options_in.own_thread,
              .name = "kv-receive"},
             clock_in,
             {.apply = [this](Command& command) { std::visit([this](auto& value) { apply(value); }, command); },
              .proceed = [this](base::TimePoint now) { return proceed(now); },
              .next_due = [this] { return next_due(); }}) {
    if (!options.codecs.empty()) { workspace = staging.take(); }
    CHECK(layout == store_in.layout());
    CHECK(transport.limits().header_bytes_max >= kHeaderBytesMax);
    CHECK(options.handoffs_max > 0 && options.ended_max > 0);
}

KvReceiver::KvReceiver(Options options, Identity identity, const kv_cache::KvLayout& layout, kv_cache::KvStore& store,
                       net::Transport& transport, const base::Clock& clock, base::Metrics* metrics,
                       ReceiverEvents events)
    : state_(std::make_unique<State>(options, std::move(identity), layout, store, transport, clock, metrics,
                                     std::move(events))) {
    state_->thread.start();
}

KvReceiver::~KvReceiver() {
    stop();
}

void KvReceiver::grant(const GrantRoom& room) {
    CHECK(room.have_tokens <= room.kv_tokens && room.have_tokens % state_->layout.block_tokens() == 0,
          room.have_tokens << " of " << room.kv_tokens << " tokens");
    CHECK(room.blocks.size() >= state_->layout.blocks_for(room.kv_tokens));
    for (const base::BlockId block : room.blocks) {
        CHECK(base::raw(block) < state_->store.blocks_total());
    }
    CHECK(room.lease > base::Duration::zero());
    state_->thread.push(State::Grant{room.key, room.kv_tokens, room.have_tokens,
                                     std::vector<base::BlockId>(room.blocks.begin(), room.blocks.end()), room.lease,
                                     room.deadline, room.allow_lossy, room.from_end});
}

void KvReceiver::offer_front(const FrontOffer& offer) {
    CHECK(offer.tokens_per_s > 0);
    state_->thread.push(State::Offer{offer});
}

void KvReceiver::later(const HandoffKey& key) {
    state_->thread.push(State::Later{key});
}

void KvReceiver::refuse(const HandoffKey& key, base::Error error) {
    state_->thread.push(State::End{key, std::move(error), false});
}

void KvReceiver::abort(const HandoffKey& key, base::Error error) {
    state_->thread.push(State::End{key, std::move(error), false});
}

void KvReceiver::stop() {
    {
        const std::scoped_lock lock(state_->mutex);
        if (state_->is_stopped) { return; }
        state_->is_stopped = true;
        state_->expected.clear();
    }
    state_->thread.stop();
    state_->fail_all({ErrorCode::unavailable, "this worker stops"});
}

bool KvReceiver::tick() {
    return state_->thread.tick();
}

std::size_t KvReceiver::handoffs_open() const {
    return state_->handoffs_open.load();
}

std::size_t KvReceiver::staging_buffers_free() const {
    return state_->staging.buffers_free();
}

Result<net::Target> KvReceiver::on_header(net::PeerId from, net::MessageKind kind, std::span<const std::byte> header,
                                          std::size_t payload_bytes) {
    if (kind == kFrame) { return state_->frame_begins(from, header, payload_bytes); }
    if (payload_bytes != 0) { return base::fail(ErrorCode::invalid_argument, "a payload was not expected"); }
    const auto refused = [&](Result<void> result, Outcome outcome) {
        state_->metrics.count(outcome);
        return base::pass_on(result);
    };
    const auto take = [&](State::Command command) -> Result<net::Target> {
        // Dropped when too many wait: it will be repeated, or a timer does its work.
        if (!state_->thread.offer(std::move(command))) {
            return base::fail(ErrorCode::resource_exhausted, "too many messages wait");
        }
        return net::Target{};
    };
    if (kind == kRoomRequest) {
        sluice::proto::RoomRequest request;
        if (auto opened = open_message(kind, header, state_->identity, request); !opened) {
            return refused(opened, outcome_of_message(opened.error().code));
        }
        const HandoffKey key = key_of(request.handoff());
        auto checked = check_header(request.header(), state_->identity);
        if (checked && key.decode != state_->identity.incarnation) {
            checked = base::fail(ErrorCode::failed_precondition, "for another life of this worker");
        }
        if (!checked) {
            state_->reply_refused(from, key, checked.error());
            return refused(checked,
                           key.decode != state_->identity.incarnation ? Outcome::stale_epoch : Outcome::wrong_request);
        }
        // More modes than anybody has are not all looked at.
        const int modes = std::min(request.kv_modes_size(), static_cast<int>(Codecs::kModesMax));
        return take(State::Asked{from,
                                 key,
                                 request.kv_tokens(),
                                 base::deadline_in(request.deadline_in_us(), state_->clock.now()),
                                 request.kv_mode(),
                                 {request.kv_modes().begin(), request.kv_modes().begin() + modes},
                                 std::chrono::microseconds(request.send_us()),
                                 std::chrono::microseconds(request.compute_us()),
                                 std::chrono::microseconds(request.whole_us()),
                                 request.moves()});
    }
    if (kind == kAbortToDecode) {
        sluice::proto::KvAbort abort;
        if (auto opened = open_message(kind, header, state_->identity, abort); !opened) {
            return refused(opened, outcome_of_message(opened.error().code));
        }
        // Of other numerics, too: it says that it cannot help. The key names this life and that one.
        if (auto checked = proto::check_header(abort.header()); !checked) {
            return refused(checked, Outcome::wrong_request);
        }
        return take(State::End{key_of(abort.handoff()), proto::error_of(abort.error()), true});
    }
    return base::fail(ErrorCode::unimplemented, "message kind " + std::to_string(net::raw(kind)));
}

Result<net::Target> KvReceiver::State::frame_begins(net::PeerId from, std::span<const std::byte> header,
                                                    std::size_t payload_bytes) {
    sluice::proto::KvFrame frame;
    if (auto opened = open_message(kFrame, header, identity, frame); !opened) {
        // Not even the request can be believed: nobody to answer to.
        metrics.count(outcome_of_message(opened.error().code));
        return base::pass_on(opened);
    }
    const HandoffKey key = key_of(frame.handoff());
    auto info = check_frame(frame, identity, layout, options.codecs, payload_bytes, options.frame_bytes_max);
    if (!info) {
        const Outcome outcome = payload_bytes > options.frame_bytes_max ? Outcome::oversize : Outcome::wrong_request;
        return refuse_frame(from, key, frame.number(), outcome, info.error());
    }
    if (key.decode != identity.incarnation) {
        return refuse_frame(from, key, frame.number(), Outcome::stale_epoch,
                            {ErrorCode::failed_precondition, "for another life of this worker"});
    }
    const std::scoped_lock lock(mutex);
    const auto granted = expected.find(key);
    if (granted == expected.end()) {
        answer_later(Refused{from, key, frame.number(), std::nullopt});
        return base::fail(ErrorCode::not_found, "hand-off " + to_string(key) + " is not granted");
    }
    const Expected& room = granted->second;
    if (info->range.token_begin < room.have_tokens || info->range.token_end > room.kv_tokens) {
        return refuse_frame(
            from, key, frame.number(), Outcome::wrong_request,
            {ErrorCode::invalid_argument,
             "tokens " + std::to_string(info->range.token_begin) + ".." + std::to_string(info->range.token_end) +
                 " of " + std::to_string(room.have_tokens) + ".." + std::to_string(room.kv_tokens)});
    }
    if (!info->mode.is_raw() && std::find(room.modes.begin(), room.modes.end(), info->mode) == room.modes.end()) {
        return refuse_frame(
            from, key, frame.number(), Outcome::wrong_request,
            {ErrorCode::failed_precondition, "codec \"" + std::string(info->mode.codec->name()) + "\", level " +
                                                 std::to_string(info->mode.level) + " was not granted"});
    }
    StagingPool::Buffer buffer = staging.take();
    if (buffer == nullptr) {
        answer_later(Refused{from, key, frame.number(),
                             base::Error{ErrorCode::resource_exhausted, "all staging buffers are in use"}});
        return base::fail(ErrorCode::resource_exhausted, "all staging buffers are in use");
    }
    const net::ReceiveToken token{++tokens_minted};
    const std::span<std::byte> target = buffer->first(payload_bytes);
    under_way.emplace(token, Landed{from, std::move(*info), std::move(buffer), {}});
    return net::Target{target, token, clock.now() + options.payload_timeout + slow_wire_time(payload_bytes)};
}

Result<net::Target> KvReceiver::State::refuse_frame(net::PeerId from, const HandoffKey& key, std::uint32_t number,
                                                    Outcome outcome, base::Error error) {
    metrics.count(outcome);
    answer_later(Refused{from, key, number, error});
    return tl::unexpected(std::move(error));
}

/// Dropped when too many messages wait: the sender's timer sends the frame again.
void KvReceiver::State::answer_later(Refused refused) {
    static_cast<void>(thread.offer(std::move(refused)));
}

void KvReceiver::on_payload(net::ReceiveToken token, Result<void> outcome) {
    std::optional<State::Landed> landed;
    bool is_stopped = false;
    {
        const std::scoped_lock lock(state_->mutex);
        const auto found = state_->under_way.find(token);
        CHECK(found != state_->under_way.end(), "token " << net::raw(token));
        landed = std::move(found->second);
        state_->under_way.erase(found);
        is_stopped = state_->is_stopped;
    }
    // What did not arrive whole is sent again, or the hand-off ends with the connection.
    if (!outcome || is_stopped) { return; }
    landed->at = state_->clock.now();
    state_->thread.push(std::move(*landed));
}

void KvReceiver::on_peer_lost(net::PeerId peer, const base::Error& why) {
    // Dropped only when the thread is far behind: then the peer's silence ends its hand-offs.
    static_cast<void>(state_->thread.offer(State::PeerLost{peer, why}));
}

}  // namespace kv_transfer
