#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/grammars.h"
#include "text/grammar.h"

namespace engine {

/// Grammars over a model's vocabulary. Two kinds of threads, begun with the first grammar: those that compile, which
/// may take a while, and those that make masks, for which steps wait. Compiled grammars are kept for others that want
/// the same, the least recently used go first. Work of one sequence is done in order, by one thread at a time. What
/// waits is bounded by the worker's sequences: each has at most one mask and one compilation under way.
class GrammarPool final : public Grammars {
public:
    /// Called on a thread of the pool when the first grammar comes: reading a vocabulary takes a second. An error is
    /// that of the grammar that wanted it; the next one tries again.
    using LoadVocabulary = std::function<base::Result<std::shared_ptr<const text::GrammarVocabulary>>()>;
    struct Options {
        std::uint32_t mask_threads = 1;               // > 0
        std::uint32_t compile_threads = 1;            // > 0
        std::size_t compiled_max = 64;                // grammars that are kept
        std::size_t compiled_source_bytes = 4 << 20;  // of their texts together
        std::uint32_t forced_max = 32;                // tokens that come at once because they have to; 0: none do
    };
    /// `vocabulary` > 0: bits of the masks.
    GrammarPool(LoadVocabulary load, std::uint32_t vocabulary, Options options);
    /// No sequence may be left.
    ~GrammarPool() override;

    std::unique_ptr<GrammarSequence> begin(const GrammarSpec& spec, std::function<void()> ready) override;

    /// Grammars that were compiled so far.
    std::uint64_t compilations() const;

private:
    class Stream;
    class Handle;
    class Queue;

    base::Result<std::shared_ptr<const text::Grammar>> compiled(const GrammarSpec& spec);
    base::Result<std::shared_ptr<const text::GrammarVocabulary>> vocabulary();

    const LoadVocabulary load_;
    const std::uint32_t vocabulary_bits_;
    const Options options_;

    std::mutex load_mutex_;
    std::shared_ptr<const text::GrammarVocabulary> loaded_;  // null: not yet; guarded by load_mutex_

    mutable std::mutex mutex_;                                                      // guards what follows
    std::list<std::pair<GrammarSpec, std::shared_ptr<const text::Grammar>>> kept_;  // the most recently used first
    std::size_t kept_bytes_ = 0;
    std::uint64_t compilations_ = 0;

    std::unique_ptr<Queue> masks_;  // ends after `compiles_`, which gives it work
    std::unique_ptr<Queue> compiles_;
};

}  // namespace engine
