#include "scheduler/class_aims.h"

#include <algorithm>

#include "base/check.h"
#include "base/ids.h"

namespace scheduler {

ClassAims::ClassAims(const Options& options) : options_(options) {
    CHECK(options_.window > base::Duration::zero() && options_.fraction_min > 0 && options_.fraction_min <= 1);
}

void ClassAims::set(const Aims& aims) {
    for (Class& one : classes_) {
        one.misses_max = 0;
    }
    for (const auto& [name, aim] : aims) {
        CHECK(aim.attainment > 0 && aim.attainment <= 1, name);
        constexpr double kMissesLeast = 1e-3;  // who may miss none is ahead as long as it misses none
        const auto [at, is_new] = names_.emplace(name, AimedClass{static_cast<std::uint32_t>(classes_.size() + 1)});
        if (is_new) { classes_.push_back({0, 0, base::SlidingShare(options_.window)}); }
        Class& one = classes_[base::raw(at->second) - 1];
        one.misses_max = std::max(kMissesLeast, 1 - aim.attainment);
        one.priority = aim.priority;
    }
}

AimedClass ClassAims::find(std::string_view name) const {
    const auto at = names_.find(name);
    return at == names_.end() ? AimedClass::none : at->second;
}

void ClassAims::judged(AimedClass of, bool is_met, base::TimePoint now) {
    if (of != AimedClass::none) { classes_[base::raw(of) - 1].met.note(is_met, now); }
}

double ClassAims::burn(AimedClass of, base::TimePoint now) {
    if (of == AimedClass::none) { return 0; }
    Class& one = classes_[base::raw(of) - 1];
    const base::SlidingShare::Counts counts = one.met.counts(now);
    if (one.misses_max == 0 || counts.all < options_.requests_min) { return 0; }
    return static_cast<double>(counts.all - counts.good) / static_cast<double>(counts.all) / one.misses_max;
}

double ClassAims::fraction(AimedClass of, base::TimePoint now) {
    if (of == AimedClass::none || classes_.size() < 2 || classes_[base::raw(of) - 1].misses_max == 0) { return 1; }
    const double ahead = 1 - burn(of, now);
    if (ahead <= 0) { return 1; }
    double worst = 0;
    for (std::uint32_t other = 1; other <= classes_.size(); ++other) {
        if (classes_[other - 1].priority < classes_[base::raw(of) - 1].priority) { continue; }
        worst = std::max(worst, burn(AimedClass{other}, now));
    }
    if (worst <= 1) { return 1; }
    // Not all at once: who is a little ahead of who is a little behind gives way a little.
    const double degree = std::min(1.0, 2 * ahead) * std::min(1.0, 2 * (worst - 1));
    return 1 - degree * (1 - options_.fraction_min);
}

}  // namespace scheduler
