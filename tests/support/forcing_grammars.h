#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/grammars.h"

#include "tests/support/ledger_engine.h"

namespace test_support {

/// Grammars over what LedgerEngine chooses from 1000 tokens: they allow everything, and now and then say that what it
/// chooses is followed by a run without a choice. Ready at once. Thread-safe.
class ForcingGrammars final : public engine::Grammars {
public:
    static constexpr std::uint32_t kVocabulary = 1000;

    /// Of a prompt: what comes without a choice depends on the tokens, so a grammar has to know them all.
    static engine::GrammarSpec of(const std::vector<base::TokenId>& prompt) {
        std::string text;
        for (const base::TokenId token : prompt) {
            text += std::to_string(token) + " ";
        }
        return {engine::GrammarKind::lark, std::move(text)};
    }
    /// What follows the token that is chosen after `generated`: behind the first one always something.
    static std::vector<base::TokenId> run_after(std::span<const base::TokenId> generated) {
        std::size_t length = generated.empty() ? 5 : 0;
        if (generated.size() % 3 == 1) { length = static_cast<std::size_t>(generated.back()) % 20; }
        std::vector<base::TokenId> run;
        for (std::size_t i = 0; i < length; ++i) {
            run.push_back(static_cast<base::TokenId>((generated.size() * 31 + i) % kVocabulary));
        }
        return run;
    }
    struct Answer {
        std::vector<base::TokenId> tokens;
        std::vector<std::size_t> outputs;  // where each begins that a step gives
    };
    /// The answer that keeps to of(prompt).
    static Answer answer(const std::vector<base::TokenId>& prompt, std::size_t length) {
        Answer made;
        std::vector<base::TokenId> all = prompt;
        while (made.tokens.size() < length) {
            made.outputs.push_back(made.tokens.size());
            std::vector<base::TokenId> run = run_after(made.tokens);
            run.insert(run.begin(), ledger_continuation(all, 1, kVocabulary).front());
            run.resize(std::min(run.size(), length - made.tokens.size()));
            made.tokens.insert(made.tokens.end(), run.begin(), run.end());
            all.insert(all.end(), run.begin(), run.end());
        }
        return made;
    }

    std::unique_ptr<engine::GrammarSequence> begin(const engine::GrammarSpec& spec, std::function<void()>) override {
        std::vector<base::TokenId> prompt;
        std::istringstream words(spec.text);
        for (base::TokenId token = 0; words >> token;) {
            prompt.push_back(token);
        }
        return std::make_unique<Sequence>(*this, std::move(prompt));
    }
    std::size_t masks() const { return masks_; }

private:
    class Sequence final : public engine::GrammarSequence {
    public:
        Sequence(ForcingGrammars& of, std::vector<base::TokenId> prompt) : of_(of), prompt_(std::move(prompt)) {}
        bool is_ready() const override { return true; }
        std::shared_ptr<const engine::LateMask> next(std::span<const base::TokenId> generated,
                                                     std::optional<base::TokenId>) override {
            ++of_.masks_;
            generated_.assign(generated.begin(), generated.end());
            auto mask = std::make_shared<engine::LateMask>(kVocabulary);
            mask->set(std::vector<std::uint32_t>((kVocabulary + 31) / 32, ~0U));
            return mask;
        }
        std::vector<base::TokenId> take_forced() override {
            std::vector<base::TokenId> all = prompt_;
            all.insert(all.end(), generated_.begin(), generated_.end());
            std::vector<base::TokenId> run = run_after(generated_);
            run.insert(run.begin(), ledger_continuation(all, 1, kVocabulary).front());
            return run;
        }

    private:
        ForcingGrammars& of_;
        const std::vector<base::TokenId> prompt_;
        std::vector<base::TokenId> generated_;
    };

    std::atomic<std::size_t> masks_{0};
};

}  // namespace test_support
