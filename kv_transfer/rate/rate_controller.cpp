#include "kv_transfer/rate/rate_controller.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace kv_transfer {
namespace {

constexpr double kMargin = 0.9;  // of the time left: what is expected is not what comes

double seconds_at(double bytes, double rate) {
    return rate <= 0 ? 0 : bytes / rate;
}

/// One way, alone or while the other side computes.
struct Option {
    std::size_t way = 0;
    bool recompute = false;
    double seconds = 0;  // until all is there, as expected
};

double seconds_with(const WayToSend& way, const RateQuestion& question, bool recompute, double wire) {
    const auto left = static_cast<double>(question.bytes_left);
    const auto frame = static_cast<double>(question.frame_bytes);
    const double ahead = static_cast<double>(question.bytes_ahead) / wire;
    const double alone = ahead + seconds_to_send(way, left, frame, wire);
    if (!recompute) { return alone; }
    const double computing = left / question.recompute_rate;
    if (!question.recompute_with_frames) { return computing; }
    // They meet: the share of the sender ends when that of the other side does.
    double sent_low = 0;
    double sent_high = left;
    for (int i = 0; i < 40; ++i) {
        const double sent = (sent_low + sent_high) / 2;
        const double sending = ahead + seconds_to_send(way, sent, std::min(frame, sent), wire);
        (sending < (left - sent) / question.recompute_rate ? sent_low : sent_high) = sent;
    }
    return std::min({alone, computing, (left - sent_low) / question.recompute_rate});
}

/// Whether all is there in time even if the wire falls to its lowest, when the frames after this one go the quickest
/// way.
bool survives_a_bad_wire(const WayToSend& way, const WayToSend& quickest, const RateQuestion& question, double left_s) {
    const auto frame = static_cast<double>(question.frame_bytes);
    const auto rest = static_cast<double>(question.bytes_left - question.frame_bytes);
    const double ahead = static_cast<double>(question.bytes_ahead) / question.wire_low;
    return ahead + seconds_to_send(way, frame, frame, question.wire_low) +
               seconds_to_send(quickest, rest, std::min(frame, rest), question.wire_low) <=
           left_s;
}

/// The first that takes about as little time as the quickest.
Option first_about(std::span<const Option> options) {
    double least = options.front().seconds;
    for (const Option& option : options) {
        least = std::min(least, option.seconds);
    }
    return *std::find_if(options.begin(), options.end(),
                         [&](const Option& option) { return option.seconds <= least * (1 + kAlike); });
}

}  // namespace

double seconds_to_send(const WayToSend& way, double bytes, double frame_bytes, double wire) {
    if (bytes <= 0) { return 0; }
    const double frames = bytes / frame_bytes;
    const double encode = seconds_at(frame_bytes, way.encode_rate);
    const double send = way.wire_share * frame_bytes / wire;
    const double decode = seconds_at(frame_bytes, way.decode_rate);
    return encode + send + decode + (frames - 1) * std::max({encode, send, decode});
}

RateAnswer choose_way(std::span<const WayToSend> ways, const RateQuestion& question) {
    CHECK(!ways.empty() && question.frame_bytes > 0 && question.frame_bytes <= question.bytes_left);
    CHECK(question.wire > 0 && question.wire_low > 0);
    const auto is_sooner = [](const Option& a, const Option& b) { return a.seconds < b.seconds; };
    std::vector<Option> options;  // in the order in which they are liked
    for (const bool is_lossy : {false, true}) {
        for (const bool recompute : {false, true}) {
            if ((is_lossy && !question.allow_lossy) || (recompute && question.recompute_rate <= 0)) { continue; }
            std::vector<Option> alike;
            for (std::size_t way = 0; way < ways.size(); ++way) {
                if (ways[way].is_lossy != is_lossy) { continue; }
                alike.push_back({way, recompute, seconds_with(ways[way], question, recompute, question.wire)});
            }
            // Those without loss give the same bits: only time tells them apart.
            if (!is_lossy && !alike.empty()) { alike = {first_about(alike)}; }
            options.insert(options.end(), alike.begin(), alike.end());
        }
    }
    const Option& quickest = *std::min_element(options.begin(), options.end(), is_sooner);
    const Option* chosen = nullptr;
    if (question.left) {
        const double left_s = std::chrono::duration<double>(*question.left).count();
        const auto in_time = std::find_if(options.begin(), options.end(), [&](const Option& option) {
            return option.seconds <= left_s * kMargin &&
                   (option.recompute || survives_a_bad_wire(ways[option.way], ways[quickest.way], question, left_s));
        });
        chosen = in_time == options.end() ? nullptr : &*in_time;
    }
    const Option option = chosen != nullptr ? *chosen : first_about(options);
    return {option.way, option.recompute,
            std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(option.seconds))};
}

}  // namespace kv_transfer
