#pragma once

#include <cstdint>

#include "caching/semantic/bytes.h"
#include "caching/semantic/calibration.h"

namespace caching {

/// What a category may still get wrong. Hits by similarity spend the chance that they are wrong; every hit, exact ones
/// too, earns `error_target`. Shadow generations say what hits really were: the bound is theirs. Not thread-safe.
class ErrorBudget {
public:
    /// What is kept for the time when the pools have too much to do.
    struct Reserve {
        double share = 0;                 // of the budget, that is not spent at rest
        double wrong_chance_most = 0.04;  // of one answer under full load, with the whole budget left
    };
    explicit ErrorBudget(double error_target) : ErrorBudget(error_target, Reserve()) {}
    ErrorBudget(double error_target, Reserve reserve) : target_(error_target), reserve_(reserve) {}

    enum class State { open, tight, exact_only };
    State state() const { return state_; }

    /// The most that a single answer's chance of being wrong may be now; 0: none that may be wrong. `relief`: 0 at
    /// rest, 1 under full load (LoadRelief). The budget is the same under any load: load only says when it is spent.
    double wrong_chance_max(double relief = 0) const;
    /// Likewise of an answer to an equal question, beyond its time.
    double late_chance_max(double relief) const;
    void exact_hit() { ++hits_exact_; }
    void semantic_hit(double wrong_chance);
    /// An answer to an equal question was served beyond its time; `wrong_chance`: that it has changed since.
    void late_hit(double wrong_chance);
    /// A hit was generated again; `wrong_chance` is what was expected of it. A breach, which is when even the lower
    /// bound of the error is above what is allowed, tightens at once; the next one stops the category.
    void shadow(bool wrong, double wrong_chance);
    /// A user says that an answer was wrong.
    void complaint() { shadow(true, 0.0); }

    std::uint64_t hits_exact() const { return hits_exact_; }
    std::uint64_t hits_semantic() const { return hits_semantic_; }
    std::uint64_t shadows() const { return shadows_; }
    std::uint64_t shadow_errors() const { return shadow_errors_; }
    double expected_wrong() const { return expected_wrong_ * bias(); }
    /// Of hits by similarity.
    ErrorBound bound() const { return anytime_bound(shadow_errors_, shadows_); }

    /// What it has seen, for another life. False for bytes that are none: it is then as it was.
    void save(ByteWriter& bytes) const;
    bool restore(ByteReader& bytes);

private:
    double chance_max(double at_rest, double relief) const;
    /// How much more often shadows were wrong than expected.
    double bias() const;
    /// Of hits by similarity, so that all hits together keep the target.
    double allowed_rate() const;

    double target_;
    Reserve reserve_;
    State state_ = State::open;
    std::uint64_t hits_exact_ = 0;
    std::uint64_t hits_semantic_ = 0;
    double expected_wrong_ = 0;
    std::uint64_t shadows_ = 0;
    std::uint64_t shadow_errors_ = 0;
    double shadows_expected_ = 0;
    std::uint64_t shadows_before_ = 0;  // the breach: the next one counts from here
    std::uint64_t shadow_errors_before_ = 0;
};

}  // namespace caching
