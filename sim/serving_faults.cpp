// What goes between workers, and what goes wrong; the contract stands in serving.h and faults.h.
#include <algorithm>
#include <utility>

#include "sim/serving_run.h"
#include "worker/role_part.h"

namespace sim {
namespace {

constexpr base::Duration kAskAgain = std::chrono::milliseconds(500);  // who cannot be reached, or has no room

}  // namespace

void ServingRun::start(std::uint32_t worker, const LightStart& start, std::uint32_t peer) {
    Node& node = nodes_[worker];
    if (start.part == worker::Part::prefill) {
        hand_offs_[start.key] = {.prefill = worker,
                                 .decode = peer,
                                 .prefill_life = node.life,
                                 .decode_life = nodes_[peer].life,
                                 .kv_tokens = start.prompt_tokens + start.generated_tokens};
    }
    if (node.is_cut) {
        if (node.is_stream_lost) {
            return push(clock_.now(), {Event::Kind::failed, worker, start.key,
                                       static_cast<std::uint64_t>(base::ErrorCode::unavailable)});
        }
        node.held.push_back({.kind = Held::Kind::start, .start = start, .key = start.key});
        return;
    }
    if (!node.worker) {
        return push(clock_.now(),
                    {Event::Kind::failed, worker, start.key, static_cast<std::uint64_t>(base::ErrorCode::unavailable)});
    }
    node.worker->fetch_sequences(true);  // it is asked for memory at once, which is about all of them
    if (!up_to_date(node).start(start, clock_.now())) {
        return push(clock_.now(), {Event::Kind::failed, worker, start.key,
                                   static_cast<std::uint64_t>(base::ErrorCode::resource_exhausted)});
    }
    mark(worker);
}

void ServingRun::go_on(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens) {
    Node& node = nodes_[worker];
    if (node.is_cut) {
        node.held.push_back({.kind = Held::Kind::go_on, .start = {}, .key = key, .tokens = generated_tokens});
        return;
    }
    if (!node.worker) { return; }
    up_to_date(node).go_on(key, generated_tokens, clock_.now());
    push(clock_.now() + node.pool->limits.kv_wait, {Event::Kind::kv_overdue, worker, key, node.life});
    mark(worker);
}

void ServingRun::cancel(std::uint32_t worker, AttemptKey key) {
    Node& node = nodes_[worker];
    if (node.is_cut) {
        node.held.push_back({.kind = Held::Kind::cancel, .start = {}, .key = key});
        return;
    }
    hand_offs_.erase(key);
    if (!node.worker) { return; }
    up_to_date(node).cancel(key);
    mark(worker);
}

std::uint64_t ServingRun::incarnation(std::uint32_t worker) const {
    return incarnation_of(worker, nodes_[worker].life);
}

void ServingRun::wake(AttemptKey key, base::TimePoint at) {
    push(at, {Event::Kind::wake, 0, key, 0});
}

void ServingRun::on_failed(std::uint32_t worker, AttemptKey key, base::ErrorCode code) {
    push(clock_.now(), {Event::Kind::failed, worker, key, static_cast<std::uint64_t>(code)});
}

void ServingRun::on_token(std::uint32_t worker, AttemptKey key, std::uint32_t generated_tokens,
                          std::uint32_t cached_tokens, bool is_last) {
    Node& node = nodes_[worker];
    const auto at = hand_offs_.find(key);
    if (at != hand_offs_.end() && at->second.prefill == worker && !is_last) {
        HandOff& hand_off = at->second;
        hand_off.first_token = clock_.now();
        hand_off.last_step_began = node.worker->step_began();
        if (is_alive(hand_off)) { hand_off.others = nodes_[hand_off.decode].worker->kv_awaited(); }
        push(clock_.now() + node.pool->limits.handoff_timeout, {Event::Kind::handoff_overdue, worker, key, 0});
        relay(key);
    }
    if (node.is_cut) {
        if (node.is_stream_lost) { return; }
        node.held.push_back({.kind = Held::Kind::token,
                             .start = {},
                             .key = key,
                             .tokens = generated_tokens,
                             .cached_tokens = cached_tokens});
        return;
    }
    owner_.on_token(worker, key, generated_tokens, cached_tokens);
}

void ServingRun::on_admitted(std::uint32_t, AttemptKey key) {
    relay(key);
}

void ServingRun::on_room_granted(std::uint32_t, AttemptKey key, std::uint32_t tokens_held) {
    const auto at = hand_offs_.find(key);
    if (at == hand_offs_.end()) { return; }
    at->second.granted = clock_.now();
    at->second.tokens_held = tokens_held;
    relay(key);
}

bool ServingRun::is_alive(const HandOff& hand_off) const {
    const Node& prefill = nodes_[hand_off.prefill];
    const Node& decode = nodes_[hand_off.decode];
    return prefill.worker && decode.worker && prefill.life == hand_off.prefill_life &&
           decode.life == hand_off.decode_life;
}

/// Does what can be done next for a hand-off: asks for room, or sends.
void ServingRun::relay(AttemptKey key) {
    const auto at = hand_offs_.find(key);
    if (at == hand_offs_.end()) { return; }
    HandOff& hand_off = at->second;
    if (!is_alive(hand_off) || hand_off.began) { return; }
    if (!reaches(hand_off.prefill) || !reaches(hand_off.decode)) {
        return push(clock_.now() + kAskAgain, {Event::Kind::relay, 0, key, 0});
    }
    if (!std::exchange(hand_off.is_asked, true)) {
        up_to_date(nodes_[hand_off.decode]).want_room(key, hand_off.kv_tokens, clock_.now());
        return mark(hand_off.decode);
    }
    if (hand_off.granted && hand_off.first_token) { begin_transfer(key, hand_off); }
}

void ServingRun::begin_transfer(AttemptKey key, HandOff& hand_off) {
    Node& prefill = nodes_[hand_off.prefill];
    Node& decode = nodes_[hand_off.decode];
    const base::TimePoint now = clock_.now();
    const ServingLinks& links = options_.links;
    double seconds = 0;
    double free_sooner = 0;  // for so long the sender's link has room for others, where the receiver's is the slow one
    if (links.bytes_per_second > 0) {
        const double bytes = static_cast<double>(hand_off.kv_tokens - hand_off.tokens_held) * links.kv_bytes_per_token;
        const double slowness = std::max(prefill.link_slowness, decode.link_slowness);
        seconds = bytes / links.bytes_per_second * slowness;
        free_sooner = bytes / links.bytes_per_second * (slowness - prefill.link_slowness);
    }
    const base::TimePoint could =
        std::max({hand_off.last_step_began, *hand_off.granted, prefill.link_free, decode.link_free});
    // The last layers cannot leave before they are computed.
    const base::TimePoint end =
        std::max(could + duration_of(seconds), now + duration_of(seconds / std::max(1u, links.layers))) +
        duration_of(links.latency_seconds);
    add_host_work((hand_off.kv_tokens - hand_off.tokens_held) * options_.host.handed_token_seconds);
    hand_off.began = could;
    decode.link_free = end;
    prefill.link_free = end - duration_of(free_sooner);
    push(std::max(end, now), {Event::Kind::kv_arrived, 0, key, 0});
}

void ServingRun::kv_arrived(AttemptKey key) {
    const auto at = hand_offs_.find(key);
    if (at == hand_offs_.end()) { return; }
    const HandOff hand_off = at->second;
    if (!is_alive(hand_off)) { return; }  // kv_overdue or the end of the attempt clears up
    if (!reaches(hand_off.prefill) || !reaches(hand_off.decode)) {
        return push(clock_.now() + kAskAgain, {Event::Kind::kv_arrived, 0, key, 0});
    }
    hand_offs_.erase(at);
    ModelledWorker& prefill = up_to_date(nodes_[hand_off.prefill]);
    ModelledWorker& decode = up_to_date(nodes_[hand_off.decode]);
    if (decode.kv_arrived(key)) {
        decode.delay_next_step((hand_off.kv_tokens - hand_off.tokens_held) * options_.links.receiver_seconds_per_token);
        ++result_.counts.hand_offs;
        result_.counts.hand_off_seconds += seconds_of(clock_.now() - *hand_off.first_token);
        sluice::proto::TransferSample sample;
        sample.set_bytes(static_cast<std::uint64_t>(static_cast<double>(hand_off.kv_tokens - hand_off.tokens_held) *
                                                    options_.links.kv_bytes_per_token));
        const base::TimePoint lacked_since = std::max(*hand_off.first_token, *hand_off.granted);
        const double us = seconds_of(clock_.now() - lacked_since) * 1e6;
        sample.set_duration_us(static_cast<std::uint32_t>(std::max<double>(worker::MeasuredHandoff::kToldMinUs, us)));
        sample.set_others(hand_off.others);
        if (sample.bytes() > 0) { decode.board().add_transfer(sample); }
    }
    prefill.handed_over(key);
    owner_.on_handed_over(key);
    mark(hand_off.prefill);
    mark(hand_off.decode);
}

void ServingRun::begin_fault(std::uint32_t index) {
    const Fault& fault = options_.faults[index];
    const std::uint32_t worker = targets_[index];
    Node& node = nodes_[worker];
    switch (fault.kind) {
        case Fault::Kind::death:
            kill(worker);
            break;
        case Fault::Kind::slow:
            node.slowness = fault.factor;
            break;
        case Fault::Kind::slow_link:
            node.link_slowness = fault.factor;
            break;
        case Fault::Kind::partition:
            cut(worker);
            break;
        case Fault::Kind::scheduler_death:
        case Fault::Kind::scheduler_pause:
            begin_scheduler_fault(index);
            break;
    }
    if (fault.duration_s > 0) {
        push(clock_.now() + duration_of(fault.duration_s), {Event::Kind::fault_end, index, {}, 0});
    } else {
        --faults_left_;
    }
}

void ServingRun::end_fault(std::uint32_t index) {
    const std::uint32_t worker = targets_[index];
    Node& node = nodes_[worker];
    switch (options_.faults[index].kind) {
        case Fault::Kind::death:
            if (node.worker) { return; }  // another fault has begun its next life
            make_worker(worker);
            return push(clock_.now(), {Event::Kind::attach, worker, {}, node.life});
        case Fault::Kind::slow:
            node.slowness = 1;
            return;
        case Fault::Kind::slow_link:
            node.link_slowness = 1;
            return;
        case Fault::Kind::partition:
            return heal(worker);
        case Fault::Kind::scheduler_death:
        case Fault::Kind::scheduler_pause:
            return end_scheduler_fault(index);
    }
}

void ServingRun::kill(std::uint32_t worker) {
    Node& node = nodes_[worker];
    if (!node.worker) { return; }
    count_work_of(*node.worker);
    node.worker.reset();
    node.step_awaited = {};
    node.copy_awaited = {};
    ++node.life;
    // Decode workers that were to get its KV hear within a lease that it will not come.
    for (const auto& [key, hand_off] : hand_offs_) {
        if (hand_off.prefill != worker || !hand_off.first_token || hand_off.prefill_life + 1 != node.life) { continue; }
        const Node& decode = nodes_[hand_off.decode];
        push(clock_.now() + decode.pool->limits.kv_lease,
             {Event::Kind::kv_overdue, hand_off.decode, key, hand_off.decode_life});
    }
    if (node.is_cut) { return; }  // nobody hears of it
    placer_.detach(worker);
    owner_.on_worker_lost(worker);
}

void ServingRun::cut(std::uint32_t worker) {
    Node& node = nodes_[worker];
    if (node.is_cut) { return; }
    node.is_cut = true;
    node.is_stream_lost = false;
    node.cut_life = node.life;
    // A gateway gives a silent stream up after the lease that the scheduler tells it.
    push(clock_.now() + options_.scheduler.lease, {Event::Kind::stream_lost, worker, {}, ++node.cuts});
}

void ServingRun::lose_stream(std::uint32_t worker) {
    Node& node = nodes_[worker];
    node.is_stream_lost = true;
    node.held.clear();
    if (!is_scheduler(options_.policy)) { placer_.detach(worker); }
    owner_.on_worker_lost(worker);
    node.held.clear();
}

void ServingRun::heal(std::uint32_t worker) {
    Node& node = nodes_[worker];
    if (!node.is_cut) { return; }
    node.is_cut = false;
    const std::vector<Held> held = std::exchange(node.held, {});
    const bool is_same_life = node.worker && node.life == node.cut_life;
    const bool was_lost = std::exchange(node.is_stream_lost, false);
    if (!is_same_life) {
        placer_.detach(worker);  // the process that was there turns out to be gone
        if (!was_lost) { owner_.on_worker_lost(worker); }
    } else if (was_lost) {
        // Its streams have ended: nobody waits for what it has.
        node.worker->cancel_all();
        std::erase_if(hand_offs_, [worker](const auto& one) { return one.second.prefill == worker; });
        mark(worker);
    } else {
        for (const Held& one : held) {
            apply(worker, one);
        }
    }
    if (node.worker && !placer_.is_attached(worker)) {
        push(clock_.now(), {Event::Kind::attach, worker, {}, node.life});
    }
}

void ServingRun::apply(std::uint32_t worker, const Held& held) {
    switch (held.kind) {
        case Held::Kind::start: {
            const auto at = hand_offs_.find(held.key);
            const bool is_prefill = held.start.part == worker::Part::prefill && at != hand_offs_.end();
            return start(worker, held.start, is_prefill ? at->second.decode : worker);
        }
        case Held::Kind::go_on:
            return go_on(worker, held.key, held.tokens);
        case Held::Kind::cancel:
            return cancel(worker, held.key);
        case Held::Kind::token:
            return owner_.on_token(worker, held.key, held.tokens, held.cached_tokens);
    }
}

}  // namespace sim
