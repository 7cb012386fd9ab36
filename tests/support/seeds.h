#pragma once

#include <cstdlib>

namespace test_support {

/// How many times as many seeds as usual are tried: 1; in a nightly run what SLUICE_TEST_SEEDS_TIMES says.
inline unsigned seeds_times() {
    const char* times = std::getenv("SLUICE_TEST_SEEDS_TIMES");
    return times == nullptr ? 1 : static_cast<unsigned>(std::strtoul(times, nullptr, 10));
}

/// End of the range of seeds that a test tries, `usual` on ordinary days: GENERATE(range(0u, seeds_of(60))).
inline unsigned seeds_of(unsigned usual) {
    return usual * seeds_times();
}

/// The same for what has all its outcomes tried by an ordinary build (a modelled cluster, a kernel): a sanitizer, which
/// looks for other faults and takes ten times as long, gets a fifth of them.
inline unsigned modelled_seeds_of(unsigned usual) {
#ifdef SLUICE_SANITIZED
    return seeds_of(usual / 5);
#else
    return seeds_of(usual);
#endif
}

}  // namespace test_support
