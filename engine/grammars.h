#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "engine/late_mask.h"

namespace engine {

/// What the text of a grammar is: a JSON schema, any JSON object (the text does not count), a regular expression, a
/// JSON list of strings of which the answer is one, a Lark grammar.
enum class GrammarKind : std::uint32_t { json_schema, json_object, regex, choice, lark };

/// What an answer has to keep to.
struct GrammarSpec {
    GrammarKind kind = GrammarKind::json_schema;
    std::string text;
    bool operator==(const GrammarSpec&) const = default;
};

/// Where one sequence stands in its grammar. What it gives depends on the tokens alone: a sequence that is computed
/// again, or goes on elsewhere, gets the same masks. Called on the step thread; never waits.
class GrammarSequence {
public:
    virtual ~GrammarSequence() = default;
    /// Whether the grammar is compiled, or cannot be.
    virtual bool is_ready() const = 0;
    /// The mask of the token after `generated`, all tokens so far that the grammar is about (of which those before are
    /// the same as in earlier calls), with `also`, a token that may come whatever the grammar says. Filled on another
    /// thread; fails where the grammar cannot be compiled or does not allow them.
    virtual std::shared_ptr<const LateMask> next(std::span<const base::TokenId> generated,
                                                 std::optional<base::TokenId> also) = 0;
    /// Once the mask of the last next() is there: the tokens that have to come then, whatever the model would choose,
    /// the one that the mask allows first. Mostly none. Once.
    virtual std::vector<base::TokenId> take_forced() = 0;
};

/// Where grammars are compiled and masks are made, beside the step thread. Thread-safe.
class Grammars {
public:
    virtual ~Grammars() = default;
    /// `ready` is called once, on another thread, when is_ready() has become true: must only hand the news on.
    virtual std::unique_ptr<GrammarSequence> begin(const GrammarSpec& spec, std::function<void()> ready) = 0;
};

}  // namespace engine
