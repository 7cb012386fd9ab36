#include "sim/goodput.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace sim {
namespace {

struct Attained {
    double both = 0;
    double ttft = 0;
    double tpot = 0;
    ClusterResult result;
};

Attained attained(const ClusterShape& shape, const Workload& workload, const GoodputOptions& options, double rate,
                  std::uint32_t seed) {
    const double seconds = std::max(60.0, 20 * options.ttft_s);
    const double count = std::clamp<double>(rate * seconds, options.requests_min, options.requests_max);
    const auto requests = draw_requests(workload, rate, static_cast<std::size_t>(count), seed);
    Attained attained;
    attained.result = simulate_cluster(shape, requests);
    const std::size_t edge = requests.size() / 10;
    double counted = 0;
    for (std::size_t i = edge; i < requests.size() - edge; ++i) {
        const ClusterOutcome& outcome = attained.result.outcomes[i];
        const bool is_ttft = options.ttft_s == 0 || outcome.ttft_s <= options.ttft_s;
        const bool is_tpot = options.tpot_s == 0 || outcome.tpot_s <= options.tpot_s;
        attained.ttft += is_ttft ? 1 : 0;
        attained.tpot += is_tpot ? 1 : 0;
        attained.both += is_ttft && is_tpot ? 1 : 0;
        counted += 1;
    }
    attained.both /= counted;
    attained.ttft /= counted;
    attained.tpot /= counted;
    return attained;
}

std::string describe(const ClusterShape& shape, const Attained& at) {
    char text[160];
    const ClusterResult& result = at.result;
    const bool is_tpot = at.tpot < at.ttft;
    if (shape.mixed > 0) {
        std::snprintf(text, sizeof text, "%s: mixed %.0f %% busy, KV %.0f %% full", is_tpot ? "TPOT" : "TTFT",
                      100 * result.decode_busy, 100 * result.kv_share_max);
    } else {
        std::snprintf(text, sizeof text, "%s: prefill %.0f %%, decode %.0f %%, link %.0f %% busy, KV %.0f %% full",
                      is_tpot ? "TPOT" : "TTFT", 100 * result.prefill_busy, 100 * result.decode_busy,
                      100 * result.link_busy, 100 * result.kv_share_max);
    }
    return text;
}

}  // namespace

Goodput find_goodput(const ClusterShape& shape, const Workload& workload, const GoodputOptions& options) {
    Goodput goodput;
    double guess = 1;
    for (std::uint32_t seed = 1; seed <= options.seeds; ++seed) {
        double good = 0;
        double bad = 0;  // 0: none known
        double rate = guess;
        for (int tries = 0; tries < 40; ++tries) {
            const Attained at = attained(shape, workload, options, rate, seed);
            if (at.both >= options.attainment) {
                good = rate;
            } else {
                bad = rate;
                if (seed == 1) { goodput.binds = describe(shape, at); }
            }
            if (bad > 0 && (bad < 1e-3 || (good > 0 && bad <= good * (1 + options.precision)))) { break; }
            if (good > 1e5) { break; }
            // A known guess is bracketed closely, an unknown one by doubling.
            const double step = seed == 1 ? 2 : 1.1;
            rate = bad == 0 ? good * step : good == 0 ? bad / step : std::sqrt(good * bad);
        }
        if (good > 0) { guess = good; }
        goodput.mean += good / options.seeds;
        goodput.low = seed == 1 ? good : std::min(goodput.low, good);
        goodput.high = std::max(goodput.high, good);
    }
    return goodput;
}

}  // namespace sim
