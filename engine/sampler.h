#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/sampling.h"

namespace engine {

/// Choosing tokens and scoring given ones, over scratch memory that is kept from call to call (about 40 bytes per token
/// of the vocabulary). Results do not depend on earlier calls. Not thread-safe: one per thread.
///
/// Sums are double and in ascending order of tokens (or of rank, where a cut ranks them); ties go to the lower token;
/// exponentials are our own (exact_math.h): the same logits give the same token and log-probability everywhere.
class Sampler {
public:
    /// Chooses the token at `context.position` (sampling.h has the rules). `logits`: [vocabulary], not empty.
    /// Error: internal when a logit is NaN or +infinity; failed_precondition when context.allowed leaves no token.
    base::Result<SampledToken> sample(std::span<const float> logits, const SamplerContext& context);

    /// The log-probability of `target`, and of the `top_logprobs` most likely tokens, from unchanged logits.
    /// Error: internal when a logit is NaN or +infinity; invalid_argument when `target` is no token.
    base::Result<SampledToken> score(std::span<const float> logits, base::TokenId target, std::uint32_t top_logprobs);

private:
    struct Candidate {
        float logit = 0;
        base::TokenId token = 0;
    };

    /// The logits after bias, penalties and mask: `logits` itself where nothing changes, else `changed_`.
    std::span<const float> change(std::span<const float> logits, const SamplerContext& context);
    void apply_penalties(const SamplerContext& context);
    /// Ranks tokens by (logit descending, token ascending) and leaves the first `count` in `best_`, in order.
    void take_best(std::span<const float> logits, std::size_t count);
    /// Ranks the tokens whose weights_ are at least `floor`, in the same order, into `best_`.
    void rank_heavy(std::span<const float> logits, double floor);
    base::TokenId draw(std::span<const float> logits, float logit_max, const SamplerContext& context);
    base::TokenId draw_ranked(std::span<const float> logits, float logit_max, const SamplerContext& context,
                              double uniform);
    /// weights_[i] = e^((logits[i] - logit_max) * scale); returns their sum. `allowed`: of a mask that the logits have
    /// had, so that what it leaves out need not be computed; empty: none.
    double weigh(std::span<const float> logits, float logit_max, double scale, std::span<const std::uint32_t> allowed);
    /// The token in whose share of [0, sum of weights_) `uniform` * sum lies.
    base::TokenId pick(double sum, double uniform) const;
    void add_logprobs(std::span<const float> logits, std::uint32_t top_logprobs, SampledToken& token);

    std::vector<float> changed_;
    std::vector<double> weights_;
    std::vector<Candidate> best_;
    std::vector<double> ranked_weights_;      // of best_
    std::vector<std::uint64_t> keys_;         // of rank_heavy(): rank_key() of the logit, then the token
    std::vector<std::uint64_t> keys_sorted_;  // room to sort them
    std::vector<std::uint32_t> counts_;       // per token, zero between calls; bit 31: in the prompt
    std::vector<base::TokenId> penalised_;    // tokens with a count
};

}  // namespace engine
