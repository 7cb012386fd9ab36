#include "bench/kv_calibrate.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>

#include "base/check.h"
#include "bench/kv_quality.h"

namespace bench {
namespace {

using base::Result;

constexpr std::uint32_t kGroup = 32;      // channels of a head that noise is put on together
constexpr std::uint32_t kSinkTokens = 4;  // travel as they are
constexpr double kRatioMax = 8;           // of a step over the deviation of its channels, and one over that

/// Some channels of one head of a layer's keys or values.
struct Group {
    std::uint32_t layer = 0;
    std::uint32_t part = 0;  // 0: keys
    std::uint32_t head = 0;
    std::uint32_t dim_begin = 0;
    std::uint32_t dim_end = 0;
    double damage = 0;  // mean square change of a log-probability, per square of the noise over the deviation
};

/// Where things lie in the canonical bytes of a whole prompt.
struct Places {
    std::uint32_t layers, heads, dim, tokens;
    bool is_bf16;
    std::size_t channel(std::uint32_t layer, std::uint32_t part, std::uint32_t head, std::uint32_t d) const {
        return ((std::size_t{layer} * 2 + part) * heads + head) * dim + d;
    }
    std::size_t value(std::uint32_t layer, std::uint32_t part, std::uint32_t head, std::uint32_t token,
                      std::uint32_t d) const {
        return (((std::size_t{layer} * 2 + part) * heads + head) * tokens + token) * dim + d;
    }
};

/// Sums over tokens of each channel, keys turned back.
struct Moments {
    std::vector<double> sum, squares;
    double count = 0;
};

void add_moments(const Places& at, const kv_transfer::RotaryTable& rotary, std::span<const std::byte> kv,
                 Moments& out) {
    const std::uint32_t half = at.dim / 2;
    for (std::uint32_t layer = 0; layer < at.layers; ++layer) {
        for (std::uint32_t part = 0; part < 2; ++part) {
            for (std::uint32_t head = 0; head < at.heads; ++head) {
                for (std::uint32_t token = kSinkTokens; token < at.tokens; ++token) {
                    for (std::uint32_t d = 0; d < at.dim; ++d) {
                        double value =
                            static_cast<double>(value_at(kv, at.is_bf16, at.value(layer, part, head, token, d)));
                        if (part == 0) {
                            const std::uint32_t other = d < half ? d + half : d - half;
                            const auto pair = static_cast<double>(
                                value_at(kv, at.is_bf16, at.value(layer, part, head, token, other)));
                            const std::size_t angle = std::size_t{token} * half + d % half;
                            const auto sine = static_cast<double>(rotary.sines[angle]);
                            value =
                                value * static_cast<double>(rotary.cosines[angle]) + (d < half ? pair : -pair) * sine;
                        }
                        const std::size_t channel = at.channel(layer, part, head, d);
                        out.sum[channel] += value;
                        out.squares[channel] += value * value;
                    }
                }
            }
        }
    }
    out.count += at.tokens - kSinkTokens;
}

/// `kv` with noise of `deviation` on the tokens of a group behind the sinks. Noise that is the same in all directions
/// stays so when keys are turned.
std::vector<std::byte> with_noise(const Places& at, std::span<const std::byte> kv, const Group& group, double deviation,
                                  std::mt19937& random) {
    std::vector<std::byte> changed(kv.begin(), kv.end());
    std::uniform_real_distribution<float> uniform(-1.7320508f, 1.7320508f);
    for (std::uint32_t token = kSinkTokens; token < at.tokens; ++token) {
        for (std::uint32_t d = group.dim_begin; d < group.dim_end; ++d) {
            const std::size_t index = at.value(group.layer, group.part, group.head, token, d);
            const float value = value_at(kv, at.is_bf16, index);
            put_value(changed, at.is_bf16, index, value + static_cast<float>(deviation) * uniform(random));
        }
    }
    return changed;
}

std::vector<Group> groups_of(const Places& at) {
    std::vector<Group> groups;
    for (std::uint32_t layer = 0; layer < at.layers; ++layer) {
        for (std::uint32_t part = 0; part < 2; ++part) {
            for (std::uint32_t head = 0; head < at.heads; ++head) {
                for (std::uint32_t d = 0; d < at.dim; d += kGroup) {
                    groups.push_back({layer, part, head, d, std::min(d + kGroup, at.dim), 0});
                }
            }
        }
    }
    return groups;
}

double deviation_of(const Places& at, const Moments& moments, const Group& group) {
    double variance = 0;
    for (std::uint32_t d = group.dim_begin; d < group.dim_end; ++d) {
        const std::size_t channel = at.channel(group.layer, group.part, group.head, d);
        const double mean = moments.sum[channel] / moments.count;
        variance += std::max(moments.squares[channel] / moments.count - mean * mean, 0.0);
    }
    return std::max(std::sqrt(variance / (group.dim_end - group.dim_begin)), 1e-6);
}

/// Steps as one over the root of the damage, their mean ratio to the deviations 1.
void set_steps(const Places& at, const Moments& moments, std::vector<Group>& groups, kv_transfer::KvProfile& profile) {
    double mean_damage = 0;
    for (const Group& group : groups) {
        mean_damage += group.damage / static_cast<double>(groups.size());
    }
    std::vector<double> ratios;
    double mean_log = 0;
    for (const Group& group : groups) {
        const double ratio = 1 / std::sqrt(std::max(group.damage, 1e-4 * mean_damage));
        ratios.push_back(std::log(ratio));
        mean_log += ratios.back() / static_cast<double>(groups.size());
    }
    for (std::size_t i = 0; i < groups.size(); ++i) {
        const Group& group = groups[i];
        const double ratio = std::clamp(std::exp(ratios[i] - mean_log), 1 / kRatioMax, kRatioMax);
        for (std::uint32_t d = group.dim_begin; d < group.dim_end; ++d) {
            profile.steps[at.channel(group.layer, group.part, group.head, d)] =
                static_cast<float>(ratio * deviation_of(at, moments, group));
        }
    }
}

}  // namespace

Result<kv_transfer::KvProfile> calibrate_kv(const KvCalibrateOptions& options) {
    KvTrialOptions wanted = options.trial;
    wanted.generated = 0;
    auto trial = KvTrial::make(wanted);
    if (!trial) { return base::pass_on(trial); }
    const kv_cache::KvLayout& layout = trial->layout();
    const Places at{layout.layers(), layout.kv_heads(), layout.head_dim(), wanted.context,
                    layout.format().dtype == kv_cache::KvDtype::bf16};
    kv_transfer::KvProfile profile;
    profile.numerics_id = trial->numerics_id();
    profile.layers = at.layers;
    profile.kv_heads = at.heads;
    profile.head_dim = at.dim;
    profile.means.resize(profile.channels());
    profile.steps.resize(profile.channels());

    Moments moments;
    moments.sum.resize(profile.channels());
    moments.squares.resize(profile.channels());
    for (std::uint32_t window = 0; window < trial->windows(); ++window) {
        const auto kv = trial->compute_prompt(window);
        if (!kv) { return base::pass_on(kv); }
        add_moments(at, *trial->rotary(), *kv, moments);
    }
    for (std::size_t i = 0; i < profile.channels(); ++i) {
        profile.means[i] = static_cast<float>(moments.sum[i] / moments.count);
    }
    std::vector<Group> groups = groups_of(at);
    std::mt19937 random{options.seed};
    for (std::uint32_t window = 0; window < trial->windows(); ++window) {
        const auto kv = trial->compute_prompt(window);
        if (!kv) { return base::pass_on(kv); }
        const auto expected = trial->score();
        if (!expected) { return base::pass_on(expected); }
        std::size_t done = 0;
        for (Group& group : groups) {
            const double deviation = options.noise * deviation_of(at, moments, group);
            const kv_cache::KvRange range{group.layer, group.layer + 1, 0, at.tokens};
            const auto changed = with_noise(at, *kv, group, deviation, random);
            const auto put = trial->put(range, cut_range(layout, trial->whole(), changed, range));
            if (!put) { return base::pass_on(put); }
            const auto scored = trial->score();
            if (!scored) { return base::pass_on(scored); }
            if (const auto back = trial->put(range, cut_range(layout, trial->whole(), *kv, range)); !back) {
                return base::pass_on(back);
            }
            double squares = 0;
            for (std::size_t i = 0; i < scored->size(); ++i) {
                squares += ((*scored)[i] - (*expected)[i]) * ((*scored)[i] - (*expected)[i]);
            }
            group.damage += squares / static_cast<double>(scored->size()) / (options.noise * options.noise);
            ++done;
            if (isatty(STDERR_FILENO) != 0) {
                std::fprintf(stderr, "\rwindow %u of %u: %zu of %zu groups of channels%s", window + 1, trial->windows(),
                             done, groups.size(), done == groups.size() ? "\n" : "");
            }
        }
    }
    if (std::all_of(groups.begin(), groups.end(), [](const Group& group) { return !(group.damage > 0); })) {
        return base::fail(base::ErrorCode::internal, "noise on the KV changes nothing of what the model says");
    }
    set_steps(at, moments, groups, profile);
    return profile;
}

int kv_calibrate_main(const KvCalibrateOptions& options) {
    const auto profile = calibrate_kv(options);
    if (!profile) {
        std::fprintf(stderr, "kv calibrate: %s\n", profile.error().message.c_str());
        return 1;
    }
    if (const auto written = kv_transfer::write_profile(*profile, options.out_path); !written) {
        std::fprintf(stderr, "kv calibrate: %s\n", written.error().message.c_str());
        return 1;
    }
    std::printf("%s: %u layers, %u heads of %u, numerics id %016llx\n", options.out_path.c_str(), profile->layers,
                profile->kv_heads, profile->head_dim, static_cast<unsigned long long>(profile->numerics_id));
    return 0;
}

void add_kv_calibrate(CLI::App& app, KvCalibrateOptions& options) {
    options.trial.context = 384;
    options.trial.continuation = 128;
    options.trial.windows = 2;
    add_kv_trial_flags(app, options.trial);
    app.get_option("--text")->required();
    app.add_option("--noise", options.noise, "over the deviation of what it is put on")
        ->check(CLI::Range(0.01, 10.0))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of the noise")->capture_default_str();
    app.add_option("--out", options.out_path, "the profile's file")->required();
    app.footer(
        "Scores the text once for every 32 channels of every head, layer, and of keys and values: windows * layers *\n"
        "heads * head_dim / 16 times --continuation tokens. The profile holds for this model in this form (numerics "
        "id).");
}

}  // namespace bench
