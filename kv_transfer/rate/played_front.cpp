#include "kv_transfer/rate/played_front.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>

#include "base/check.h"
#include "kv_transfer/rate/bandwidth.h"
#include "kv_transfer/rate/both_ends.h"
#include "kv_transfer/rate/front.h"

namespace kv_transfer {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kWirePrior = 125e6;
constexpr std::size_t kFramesAhead = 2;
const double kLook_s = std::chrono::duration<double>(kFrontLook).count();

double taken(double bytes, double rate) {
    return rate <= 0 ? 0 : bytes / rate;
}

base::TimePoint at(double seconds) {
    return base::TimePoint{} + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
}

/// One hand-off as it is played. Chunks are counted from the front; the sender sends them from the last one on.
class Play {
public:
    Play(const PlayedFront& handoff, const ChangingWire& wire)
        : handoff_(handoff),
          wire_(wire),
          chunks_((handoff.tokens + PlayedFront::kChunkTokens - 1) / PlayedFront::kChunkTokens),
          landed_(chunks_, 0.0),
          next_chunk_(chunks_),
          front_most_((handoff.tokens - 1) / handoff.block_tokens * handoff.block_tokens) {}

    PlayedFrontOutcome run() {
        begin();
        while (!is_done()) {
            const double next = std::min({pack_at(), flying_.empty() ? kNever : flying_.front().landed_s, piece_end_,
                                          look_at_, heard_.empty() ? kNever : heard_.front().at_s});
            CHECK(next < kNever);
            now_ = std::max(now_, next);
            step();
        }
        outcome_.seconds = now_;
        return outcome_;
    }

private:
    struct Frame {
        std::uint32_t chunk = 0;
        double share = 0;  // of the chunk
        double sent_s = 0;
        double on_wire_s = 0;  // through the wire
        double landed_s = 0;   // and decoded
        double known_s = 0;    // to the sender
        double wire_bytes = 0;
        double kv_bytes = 0;
        double rate = 0;  // as the sender says: bytes of KV a second
        double rate_low = 0;
        bool more = false;
    };
    struct Heard {
        double at_s = 0;
        std::uint32_t front_end = 0;
    };

    void begin() {
        told_rate_ = handoff_.wire_known.value_or(0) / least_share();
        told_rate_low_ = told_rate_;
        if (handoff_.split == PlayedFront::Split::none) { return; }
        if (handoff_.split == PlayedFront::Split::moves) {
            is_offered_ = true;
            return look();
        }
        if (told_rate_ <= 0) { return; }
        const std::uint32_t blocks = front_most_ / handoff_.block_tokens;
        const auto seconds = [&](double tokens_per_s) {
            return [=, this](std::uint32_t from, std::uint32_t to) {
                return (to - from) * handoff_.block_tokens / tokens_per_s;
            };
        };
        const double wire = told_rate_ / handoff_.token_bytes;
        const Meeting meeting = meeting_of(0, blocks, seconds(handoff_.computing), seconds(wire));
        const double alone = handoff_.tokens / wire;
        if (choose_kv_way({.load = alone, .compute = alone, .both = meeting.seconds}, handoff_.due_s) == KvWay::both) {
            take(meeting.block * handoff_.block_tokens);
            sender_front_ = front_end_;
        }
    }

    double least_share() const {
        double least = kNever;
        for (const WayToSend& way : handoff_.ways) {
            least = std::min(least, way.wire_share);
        }
        return least;
    }
    std::uint32_t end_of(std::uint32_t chunk) const {
        return std::min(handoff_.tokens, (chunk + 1) * PlayedFront::kChunkTokens);
    }
    /// Of a chunk, what is not before `front`.
    std::uint32_t tokens_behind(std::uint32_t chunk, std::uint32_t front) const {
        return end_of(chunk) - std::min(end_of(chunk), std::max(front, chunk * PlayedFront::kChunkTokens));
    }
    bool is_whole(std::uint32_t chunk) const { return landed_[chunk] > 1 - 1e-9; }
    double missing() const {
        double tokens = 0;
        for (std::uint32_t chunk = 0; chunk < chunks_; ++chunk) {
            tokens += is_whole(chunk) ? 0 : tokens_behind(chunk, front_end_) * (1 - landed_[chunk]);
        }
        return tokens;
    }
    bool is_done() const { return piece_end_ == kNever && missing() <= 0; }

    /// When the next frame can be packed; never, when there is none.
    double pack_at() const {
        const bool is_new = packed_ > 1 - 1e-9;
        if (next_chunk_ == 0 && is_new) { return kNever; }
        const std::uint32_t chunk = is_new ? next_chunk_ - 1 : next_chunk_;
        if (tokens_behind(chunk, sender_front_) == 0) { return kNever; }
        double when = std::max(now_, coder_free_s_);
        std::size_t unknown = 0;
        for (const Frame& frame : unheard_) {
            unknown += frame.known_s > when ? 1u : 0u;
        }
        if (unknown >= kFramesAhead) { when = std::max(when, unheard_[unheard_.size() - kFramesAhead].known_s); }
        return when;
    }

    void step() {
        while (!heard_.empty() && heard_.front().at_s <= now_) {
            sender_front_ = heard_.front().front_end;
            heard_.pop_front();
        }
        while (!flying_.empty() && flying_.front().landed_s <= now_) {
            land(flying_.front());
            flying_.pop_front();
        }
        if (piece_end_ <= now_) {
            piece_end_ = kNever;
            is_offered_ = handoff_.split == PlayedFront::Split::moves;
            look();
        }
        if (look_at_ <= now_) { look(); }
        if (pack_at() <= now_) { pack(); }
    }

    void pack() {
        while (!unheard_.empty() && unheard_.front().known_s <= now_) {
            const Frame& frame = unheard_.front();
            meter_.landed(at(frame.sent_s), at(frame.on_wire_s), static_cast<std::uint64_t>(frame.wire_bytes));
            unheard_.pop_front();
        }
        if (packed_ > 1 - 1e-9) {
            --next_chunk_;
            packed_ = 0;
        }
        const bool is_known = meter_.bandwidth().is_known();
        const double wire = is_known ? meter_.bandwidth().expected() : handoff_.wire_known.value_or(kWirePrior);
        Frame frame;
        frame.chunk = next_chunk_;
        const double chunk_bytes = tokens_behind(next_chunk_, sender_front_) * handoff_.token_bytes;
        const double most = handoff_.split == PlayedFront::Split::none
                                ? handoff_.frame_bytes
                                : std::min(handoff_.frame_bytes, front_frame_bytes(wire));
        frame.share = std::min(1 - packed_, most / chunk_bytes);
        const double bytes = chunk_bytes * frame.share;
        double left = 0;
        for (std::uint32_t chunk = 0; chunk <= next_chunk_; ++chunk) {
            left += tokens_behind(chunk, sender_front_) * handoff_.token_bytes;
        }
        left -= chunk_bytes * packed_;
        packed_ += frame.share;
        RateQuestion question;
        question.frame_bytes = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(bytes));
        question.bytes_left = std::max(question.frame_bytes, static_cast<std::uint64_t>(left));
        question.wire = wire;
        question.wire_low = is_known ? meter_.bandwidth().low() : question.wire / (1 + Bandwidth::kStrange);
        const RateAnswer answer = choose_way(handoff_.ways, question);
        const auto rate_of = [&] {
            const double seconds = std::chrono::duration<double>(choose_way(handoff_.ways, question).takes).count();
            return static_cast<double>(question.bytes_left) / seconds;
        };
        if (is_known || handoff_.wire_known) {
            frame.rate = rate_of();
            question.wire = question.wire_low;
            frame.rate_low = std::min(frame.rate, rate_of());
        }
        const WayToSend& way = handoff_.ways[answer.way];
        frame.kv_bytes = bytes;
        frame.wire_bytes = bytes * way.wire_share;
        frame.sent_s = coder_free_s_ = now_ + taken(bytes, way.encode_rate);
        const double begin_s = std::max(frame.sent_s, wire_free_s_);
        frame.on_wire_s = wire_free_s_ = begin_s + wire_.seconds(begin_s, frame.wire_bytes);
        frame.landed_s = decoder_free_s_ = std::max(wire_free_s_, decoder_free_s_) + taken(bytes, way.decode_rate);
        frame.known_s = frame.landed_s + handoff_.way_back_s;
        frame.more = left > bytes;
        outcome_.wire_bytes += frame.wire_bytes;
        flying_.push_back(frame);
        unheard_.push_back(frame);
    }

    void land(const Frame& frame) {
        landed_[frame.chunk] += frame.share;
        if (frame.rate > 0) {
            told_rate_ = frame.rate;
            told_rate_low_ = frame.rate_low;
        }
        more_ = frame.more;
        landed_s_ = frame.landed_s;
        landed_bytes_ = frame.kv_bytes;
        look();
    }

    /// As KvReceiver does.
    void look() {
        look_at_ = kNever;
        if (!is_offered_) { return; }
        look_at_ = now_ + kLook_s;
        std::uint32_t whole = handoff_.tokens;
        for (std::uint32_t chunk = chunks_; chunk > 0 && is_whole(chunk - 1); --chunk) {
            whole = (chunk - 1) * PlayedFront::kChunkTokens;
        }
        const std::uint32_t end = std::min(whole, front_most_);
        if (front_end_ >= end) {
            look_at_ = missing() > 0 ? look_at_ : kNever;
            return;
        }
        double rate = told_rate_;
        double rate_low = told_rate_low_;
        if (more_ && now_ > landed_s_) {
            const double at_most = landed_bytes_ / (now_ - landed_s_);
            rate = std::min(rate, at_most);
            rate_low = std::min(rate_low, at_most);
        }
        FrontQuestion question;
        question.tokens_left = static_cast<std::uint32_t>(std::ceil(missing()));
        question.tokens_free = end - front_end_;
        question.wire = rate / handoff_.token_bytes;
        question.wire_low = rate_low / handoff_.token_bytes;
        question.computing = handoff_.computing;
        if (handoff_.due_s) { question.left_s = *handoff_.due_s - now_; }
        question.has_begun = front_end_ > 0;
        question.block_tokens = handoff_.block_tokens;
        const std::uint32_t tokens = front_to_take(question);
        if (tokens > 0) { take(front_end_ + tokens); }
    }

    void take(std::uint32_t end) {
        outcome_.tokens_computed += end - front_end_;
        piece_end_ = now_ + (end - front_end_) / handoff_.computing;
        front_end_ = end;
        is_offered_ = false;
        look_at_ = kNever;
        heard_.push_back({now_ + handoff_.way_back_s, end});
    }

    const PlayedFront& handoff_;
    const ChangingWire& wire_;
    const std::uint32_t chunks_;
    std::vector<double> landed_;  // of each chunk, the share
    std::uint32_t next_chunk_;    // that is being packed, or the one behind
    double packed_ = 1;           // of it, the share
    const std::uint32_t front_most_;
    PlayedFrontOutcome outcome_;
    WireMeter meter_;
    double now_ = 0;
    double coder_free_s_ = 0;
    double wire_free_s_ = 0;
    double decoder_free_s_ = 0;
    std::deque<Frame> flying_;
    std::deque<Frame> unheard_;
    std::deque<Heard> heard_;
    std::uint32_t sender_front_ = 0;
    // The receiver:
    std::uint32_t front_end_ = 0;
    double piece_end_ = kNever;
    bool is_offered_ = false;
    double look_at_ = kNever;
    double told_rate_ = 0;
    double told_rate_low_ = 0;
    bool more_ = false;
    double landed_s_ = 0;
    double landed_bytes_ = 0;
};

}  // namespace

double ChangingWire::seconds(double begin_s, double bytes) const {
    CHECK(!rates.empty() && step_s > 0 && begin_s >= 0);
    double now = begin_s;
    auto step = static_cast<std::uint64_t>(begin_s / step_s);
    while (true) {
        const double rate = rates[step % rates.size()];
        const double end = static_cast<double>(step + 1) * step_s;
        const double carried = rate * std::max(0.0, end - now);
        if (carried >= bytes) { return now + bytes / rate - begin_s; }
        bytes -= carried;
        now = std::max(now, end);
        ++step;
    }
}

double ChangingWire::bytes_until(double end_s) const {
    double bytes = 0;
    for (std::uint64_t step = 0; static_cast<double>(step) * step_s < end_s; ++step) {
        bytes += rates[step % rates.size()] * std::min(step_s, end_s - static_cast<double>(step) * step_s);
    }
    return bytes;
}

PlayedFrontOutcome play_front(const PlayedFront& handoff, const ChangingWire& wire) {
    CHECK(handoff.tokens > 0 && handoff.token_bytes > 0 && handoff.frame_bytes > 0 && handoff.computing > 0);
    CHECK(!handoff.ways.empty());
    return Play(handoff, wire).run();
}

double least_front_seconds(const PlayedFront& handoff, const ChangingWire& wire) {
    double share = 1;
    for (const WayToSend& way : handoff.ways) {
        share = std::min(share, way.wire_share);
    }
    const double slowest = *std::min_element(wire.rates.begin(), wire.rates.end());
    double low = 0;
    double high = handoff.tokens * handoff.token_bytes * share / slowest;
    for (int i = 0; i < 60; ++i) {
        const double middle = (low + high) / 2;
        const double there = handoff.computing * middle + wire.bytes_until(middle) / share / handoff.token_bytes;
        (there < handoff.tokens ? low : high) = middle;
    }
    return high;
}

}  // namespace kv_transfer
