#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "base/block_hash.h"
#include "base/result.h"
#include "caching/exact/answer_book.h"
#include "caching/in_context/saved_example.h"
#include "caching/semantic/saved_question.h"

namespace caching {

/// Answers to equal requests that are to go, by the keys of these.
struct ErasedAnswers {
    std::vector<base::BlockHash> keys;
};
/// Questions that are to go, by their exact names.
struct ErasedQuestions {
    std::vector<base::BlockHash> keys;
};
/// What the semantic cache has learnt, in the place of what was there.
struct SavedLearning {
    std::string bytes;
};

/// Examples that are to go, by their exact names.
struct ErasedExamples {
    std::vector<base::BlockHash> keys;
};
/// What router and selector of the in-context cache have learnt, in the place of what was there.
struct SavedExampleLearning {
    std::string bytes;
};
/// What examples have brought so far, in the place of what was known; of those that are there.
struct ExampleStandings {
    std::vector<ExampleStanding> all;
};

/// One change of what a store keeps. What is to be kept takes the place of an earlier one of its key.
using StoreChange = std::variant<SavedAnswer, ErasedAnswers, SavedQuestion, ErasedQuestions, SavedLearning,
                                 SavedExample, ErasedExamples, ExampleStandings, SavedExampleLearning>;

/// Where answers outlive the process. Losing it costs misses, never a wrong answer. One thread at a time.
class Store {
public:
    virtual ~Store() = default;
    /// The key that names of requests are made with, the same in every life of the store.
    virtual base::Result<base::HashKey> hash_key() = 0;
    /// Every whole answer, latest first, until `visit` says false. What cannot be read is left out.
    virtual base::Result<void> load(const std::function<bool(SavedAnswer)>& visit) = 0;
    /// Likewise questions with their answers.
    virtual base::Result<void> load_questions(const std::function<bool(SavedQuestion)>& visit) = 0;
    /// Likewise examples for a small model.
    virtual base::Result<void> load_examples(const std::function<bool(SavedExample)>& visit) = 0;
    /// What the semantic cache has learnt; empty: nothing.
    virtual base::Result<std::string> learning() = 0;
    /// Likewise router and selector of the in-context cache.
    virtual base::Result<std::string> example_learning() = 0;
    /// All of the changes or none of them. Error: the store's; it may be tried again.
    virtual base::Result<void> apply(const std::vector<StoreChange>& changes) = 0;
};

}  // namespace caching
