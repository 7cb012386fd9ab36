#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "bench/kv_trial.h"
#include "kv_transfer/codec/kv_profile.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice kv calibrate`: what the command line says.
struct KvCalibrateOptions {
    KvTrialOptions trial;
    double noise = 0.5;  // that is tried, over the deviation of what it is put on
    std::uint32_t seed = 1;
    std::string out_path;
};

/// Finds out what the codec `sluice` has to know about a model's KV: the mean of each channel (of keys before their
/// rotation), and how much a change of it changes what the model says. For that, noise is put on the KV of one group of
/// 32 channels of one layer's keys or values after the other, and the change of the log-probabilities of what follows
/// is measured. Where it is large, steps are small: at equal slope of bits against damage, steps go as one over the
/// root of it. Error: those of KvTrial::make(), and internal for a model that says nothing that noise changes.
base::Result<kv_transfer::KvProfile> calibrate_kv(const KvCalibrateOptions& options);

/// Calibrates and writes the profile. Exit status: 0; 1 when something fails.
int kv_calibrate_main(const KvCalibrateOptions& options);

/// Adds the flags of `kv calibrate` to its subcommand; they write into `options`, which must outlive the parsing.
void add_kv_calibrate(CLI::App& app, KvCalibrateOptions& options);

}  // namespace bench
