#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace kv_transfer {

/// What a wire carries, told by bytes and how long it was busy with them: several estimators side by side, since none
/// of them is right on every wire. In bytes a second; 0 while nothing is known. A value; not thread-safe.
///
/// Sources: CacheGen (Liu et al., SIGCOMM 2024) goes by the last chunk; FESTIVE (Jiang et al., CoNEXT 2012) by the
/// harmonic mean of late ones; players by two moving means, the slower of them (hls.js, Shaka); RobustMPC (Yin et al.,
/// SIGCOMM 2015) divides by one plus the largest late error, which is what low() does; and a wire that is not known for
/// long may be one that changes.
class Bandwidth {
public:
    static constexpr std::size_t kLate = 5;                                      // samples that harmonic() looks at
    static constexpr std::uint64_t kSampleBytes = 32 * 1024;                     // so much makes a sample,
    static constexpr base::Duration kSampleTime = std::chrono::milliseconds(5);  // or so long
    static constexpr std::size_t kErrors = 32;  // that low() looks at, each the largest of
    static constexpr base::Duration kErrorTime = std::chrono::milliseconds(50);  // so much busy time or more
    static constexpr double kStrange = 9;     // the error that is feared of a wire when nothing is known of it;
    static constexpr double kFamiliar_s = 2;  // it halves with each so much busy time

    /// `busy`: how long the wire had something to carry until these bytes were through. 0, for what came through
    /// together with the bytes before, counts with those that follow.
    void add(std::uint64_t bytes, base::Duration busy);

    bool is_known() const { return samples_ > 0; }
    double last() const { return samples_ == 0 ? 0 : late_[(samples_ - 1) % kLate].rate; }
    /// All bytes of the late samples by all their time.
    double harmonic() const;
    double fast() const { return fast_.value(); }
    double slow() const { return slow_.value(); }
    /// The least of harmonic, fast and slow.
    double expected() const;
    /// What it is unlikely to fall below: expected() by one plus the largest error that it had lately, or might have.
    double low() const;

private:
    /// A mean that forgets half of what it knows in `half_life` of busy time.
    class Mean {
    public:
        explicit Mean(double half_life_s) : half_life_s_(half_life_s) {}
        void add(double rate, double seconds);
        double value() const { return weight_ <= 0 ? 0 : sum_ / weight_; }

    private:
        double half_life_s_;
        double sum_ = 0;
        double weight_ = 0;
    };
    struct Sample {
        double rate = 0;
        double bytes = 0;
    };

    std::uint64_t bytes_ = 0;  // of the sample that is being made
    base::Duration busy_{};
    std::array<Sample, kLate> late_{};
    std::uint64_t samples_ = 0;
    // Of what was expected before a sample, as a share of the sample; above 0: it was too high. The newest is being
    // made.
    std::array<double, kErrors> errors_{};
    std::size_t newest_error_ = 0;
    double newest_error_s_ = 0;
    double busy_s_ = 0;
    Mean fast_{0.1};
    Mean slow_{1.0};
};

/// What any wire that is used at all carries in a second: what is under way has so much more time than a short message,
/// before it counts as lost or its connection as dead. In whole seconds: none for little.
inline constexpr std::uint64_t kWireSlowest = std::uint64_t{1} << 20;
constexpr base::Duration slow_wire_time(std::uint64_t bytes) {
    return std::chrono::seconds(bytes / kWireSlowest);
}

/// One wire between two workers, as its sender sees it: how long it was busy with what it carried. Not thread-safe.
class WireMeter {
public:
    /// A frame of `bytes` that was given to the wire at `sent` had come through at `landed`; in order of landing.
    void landed(base::TimePoint sent, base::TimePoint landed, std::uint64_t bytes);

    const Bandwidth& bandwidth() const { return bandwidth_; }

private:
    Bandwidth bandwidth_;
    base::TimePoint last_landed_{};
};

/// How much of something is done in a second, or how much is left of it: a moving mean of ratios, by their weight.
/// Begins at `prior`, which counts as much as `prior_weight`. Not thread-safe.
class Ratio {
public:
    Ratio(double prior, double prior_weight) : above_(prior * prior_weight), below_(prior_weight) {}
    void add(double above, double below);
    double value() const { return above_ / below_; }

private:
    static constexpr double kKept = 0.8;  // of what was known, at each sample
    double above_;
    double below_;
};

}  // namespace kv_transfer
