#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/block_hash.h"

namespace caching {

/// What an example has brought so far, by its name. Times are of the wall clock: they outlive the process.
struct ExampleStanding {
    base::BlockHash exact;  // of partition and question
    double value = 0;
    std::int64_t valued_unix_us = 0;
    double gain = 0;
    std::uint64_t uses = 0;
    double record = 0.5;
    double record_uses = 0;
    std::uint32_t replays = 0;
    double answer_quality = 0;

    /// Whether these numbers can have come from us.
    bool is_possible() const;
};

/// An example as a store has it: question and answer in the clear. Its vector is made anew from the question.
struct SavedExample {
    ExampleStanding standing;
    base::BlockHash partition;
    std::string tenant;
    std::string question;
    std::string answer;
    std::string revision;
    std::vector<std::string> tags;
    std::int64_t created_unix_us = 0;
    base::BlockHash seal = {};  // seal_of() when it was written
};

/// A keyed hash of all that an example says and whose it is (not of its standing, which changes with every use): what
/// was cut, damaged or put into another row has another one.
base::BlockHash seal_of(const SavedExample& example, const base::HashKey& key);

/// What a store must be told.
struct ExampleChanges {
    std::vector<SavedExample> put;
    std::vector<base::BlockHash> gone;  // by their exact names
    std::vector<ExampleStanding> standings;
};

}  // namespace caching
