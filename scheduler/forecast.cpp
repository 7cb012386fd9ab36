#include "scheduler/forecast.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

namespace scheduler {
namespace {

/// Workers plan steps for this share of what TPOT targets allow (worker/plan_batch.h).
constexpr double kTimeUsed = 0.95;
/// Prompts whose ends are foreseen one by one; what waits behind them is taken at the pace of then.
constexpr std::size_t kPromptsForeseen = 32;
/// Instants at which a forecast looks at who still decodes, at most.
constexpr int kLooksMax = 128;
/// So many of them close to each other.
constexpr int kLooksClose = 16;
/// Where fewer sequences than this are expected to decode still, the rest of a prompt goes at one pace.
constexpr double kAloneBelow = 1e-3;

/// Prompt tokens that fit into one step besides the sequences that decode.
double chunk_tokens(const WorkerView& worker, double decoding) {
    return std::max(1.0, static_cast<double>(worker.limits.batch_tokens_max) - decoding);
}

double context_of_one(const WorkerView& worker, const PlaceQuery& query) {
    return worker.expected.decoding >= 1 ? worker.expected.decode_context / worker.expected.decoding
                                         : static_cast<double>(query.prompt_tokens);
}

std::uint64_t blocks_needed(const WorkerView& worker, const PlaceQuery& query) {
    const std::uint64_t tokens = std::uint64_t{query.prompt_tokens} + query.new_tokens_max;
    return (tokens + worker.limits.block_tokens - 1) / worker.limits.block_tokens;
}

/// How long a sequence that decodes goes on, where that was not learned.
double residual_seconds(const WorkerView& worker, const PlaceQuery& query) {
    if (worker.expected.residual_seconds > 0) { return worker.expected.residual_seconds; }
    const double step =
        decode_step_seconds(worker.costs.decode, worker.expected.decoding, worker.expected.decode_context);
    return kRemainingTokens * std::max(step, std::min(query.tpot_seconds_target, 0.1));
}

/// As std::pow; by multiplication where the exponent is whole, as numbers of sequences mostly are.
double power(double x, double exponent) {
    constexpr double kWholeMax = 1 << 20;
    const bool is_small = exponent >= 0 && exponent <= kWholeMax;
    if (!is_small || static_cast<std::uint32_t>(exponent) != exponent) { return std::pow(x, exponent); }
    double result = 1;
    for (auto left = static_cast<std::uint32_t>(exponent); left > 0; left >>= 1) {
        if ((left & 1u) != 0) { result *= x; }
        x *= x;
    }
    return result;
}

/// As std::ceil for what is not negative and no count above 2^53; without a call.
double round_up(double x) {
    const auto below = static_cast<double>(static_cast<std::int64_t>(x));
    return below < x ? below + 1 : below;
}

/// The sequences that decode on one worker while time passes in a forecast: those of now leave, prompts join when they
/// are computed. How long each goes on is unknown: after t seconds exp(-t / residual) of them are left.
class Company {
public:
    struct At {
        double now;
        double sequences;
        double nobody;
    };

    Company(const WorkerView& worker, const PlaceQuery& query)
        : here_(worker.expected.decoding), residual_(residual_seconds(worker, query)) {}

    /// Nobody decodes now, nor did anybody join.
    bool is_none() const { return here_ <= 0 && joined_ == 0; }

    void join(double now) {
        if (joined_ < since_.size()) { since_[joined_++] = now; }
        at_.reset();
    }
    double sequences(double now) const { return at(now).sequences; }
    /// The chance that nobody decodes any more.
    double nobody(double now) const { return at(now).nobody; }
    /// Those who joined did so that much later.
    void shift(double seconds) {
        std::for_each_n(since_.begin(), joined_, [seconds](double& since) { since += seconds; });
        at_.reset();
    }
    double residual() const { return residual_; }
    /// What was asked last, for the same question after others.
    const std::optional<At>& last_asked() const { return at_; }
    void ask_again(const std::optional<At>& last) { at_ = last; }

private:
    double alive(double seconds) const { return std::exp(-seconds / residual_); }
    /// A forecast asks several times for one instant, and exponentials are most of what it costs.
    const At& at(double now) const {
        if (at_ && at_->now == now) { return *at_; }
        At here{.now = now, .sequences = 0, .nobody = 1};
        if (here_ > 0) {
            const double left = alive(now);
            here.sequences = here_ * left;
            here.nobody = power(1 - left, here_);
        }
        for (std::size_t i = 0; i < joined_; ++i) {
            const double left = alive(now - since_[i]);
            here.sequences += left;
            here.nobody *= 1 - left;
        }
        at_ = here;
        return *at_;
    }

    double here_;
    double residual_;
    std::array<double, kPromptsForeseen> since_;  // the first `joined_` of them
    std::size_t joined_ = 0;
    mutable std::optional<At> at_;
};

/// Goes forward in time over the prompts of one worker, in order of arrival.
class Passage {
public:
    Passage(const WorkerView& worker, const PlaceQuery& query)
        : worker_(worker),
          query_(query),
          company_(worker, query),
          context_(context_of_one(worker, query)),
          chunk_alone_(chunk_tokens(worker, 0)),
          begin_alone_(worker.costs.prefill.step_seconds / chunk_alone_) {}
    Passage(const Passage&) = delete;  // large: go_back() instead
    Passage& operator=(const Passage&) = delete;

    /// Where it stands, to go on from there several times. Nobody may join between the two.
    struct Mark {
        double now;
        double tokens;
        int looks;
        std::optional<Company::At> asked;
    };
    Mark mark() const { return {now_, tokens_, looks_, company_.last_asked()}; }
    void go_back(const Mark& mark) {
        now_ = mark.now;
        tokens_ = mark.tokens;
        looks_ = mark.looks;
        company_.ask_again(mark.asked);
    }

    /// Computes a prompt: `tokens` of it, which see `context` tokens in sum.
    void compute(double tokens, double context, bool joins) {
        const PrefillCost& prefill = worker_.costs.prefill;
        const double token_seconds = prefill.token_seconds + prefill.context_seconds * context / std::max(1.0, tokens);
        tokens_ += tokens;
        double left = tokens;
        if (company_.is_none() && left > 1e-9) {  // at one pace: as below, and most workers for prefill are so
            ++looks_;
            now_ += left * pace_alone(token_seconds);
            left = 0;
        }
        while (left > 1e-9) {
            const double pace = seconds_per_token(token_seconds);
            const double whole = left * pace;
            // Who decodes changes slowly against a quarter of the time that they go on; later it matters less.
            const bool is_steady = looks_ >= kLooksMax || company_.sequences(now_) < kAloneBelow;
            const double least = looks_ < kLooksClose ? 0 : whole / 8;
            const double stretch = is_steady ? whole : std::min(whole, std::max(least, company_.residual() / 4));
            ++looks_;
            now_ += stretch;
            left -= stretch >= whole ? left : stretch / pace;
        }
        if (joins) { company_.join(now_); }
    }
    /// So much of what was computed last has been done already.
    void pass(double seconds) {
        const double by = std::max(-now_, seconds);
        now_ += by;
        company_.shift(by);
    }
    double now() const { return now_; }
    /// now(), with the last step as long as one that is not full.
    double rounded() const {
        const double steps = tokens_ / chunk_alone_;
        return now_ + company_.nobody(now_) * (round_up(steps) - steps) * worker_.costs.prefill.step_seconds;
    }
    /// What a prompt that ends here takes besides, since steps are whole: the one that runs when it comes, of which
    /// half is left on average, and in its last one all decodes for half of its tokens. Nothing where nobody decodes.
    double whole_steps() const {
        const DecodeCost& decode = worker_.costs.decode;
        const double sequences = company_.sequences(now_);
        const double last =
            worker_.costs.prefill.step_seconds + decode_share_seconds(decode, sequences, sequences * context_);
        const ExpectedLoad& load = worker_.expected;
        const double running = load.prompts == 0 && load.decoding > 0
                                   ? decode_step_seconds(decode, load.decoding, load.decode_context)
                                   : 0;
        return (running + (1 - company_.nobody(now_)) * last) / 2;
    }
    double sequences() const { return company_.sequences(now_); }
    double context() const { return context_; }

private:
    double pace_alone(double token_seconds) const { return token_seconds + begin_alone_; }
    double seconds_per_token(double token_seconds) const {
        const PrefillCost& prefill = worker_.costs.prefill;
        const double alone = pace_alone(token_seconds);
        const double sequences = company_.sequences(now_);
        if (sequences <= 0) { return alone; }
        const double decode = decode_share_seconds(worker_.costs.decode, sequences, sequences * context_);
        const double ratio = worker_.costs.mixed.ratio;
        double beside = ratio * (token_seconds + (prefill.step_seconds + decode) / chunk_tokens(worker_, sequences));
        if (query_.tpot_seconds_target != kNoTarget) {
            const double step = std::max(query_.tpot_seconds_target / ratio, prefill.step_seconds + decode);
            const double tokens =
                std::max(kTimeUsed * step - prefill.step_seconds - decode, token_seconds) / token_seconds;
            beside = std::max(beside, ratio * (prefill.step_seconds + decode + tokens * token_seconds) / tokens);
        }
        // Of a second in which the chance that nobody decodes is p, that part goes at full speed.
        const double chance = company_.nobody(now_);
        return 1 / (chance / alone + (1 - chance) / beside);
    }

    const WorkerView& worker_;
    const PlaceQuery& query_;
    Company company_;
    double context_;
    double chunk_alone_;  // tokens of a step where nobody decodes
    double begin_alone_;  // the share of its beginning that each of them has
    double now_ = 0;
    double tokens_ = 0;
    int looks_ = 0;
};

}  // namespace

double decode_sequences(const WorkerView& worker) {
    return static_cast<double>(worker.load.decode_sequences) + static_cast<double>(worker.pending.decode_sequences);
}

double weighed_tokens(const PlaceQuery& query) {
    return std::max(1.0, static_cast<double>(std::min(kWeighedTokens, query.new_tokens_max)));
}

std::uint64_t tokens_capacity(const WorkerView& worker) {
    return std::min<std::uint64_t>(worker.limits.context_tokens,
                                   std::uint64_t{worker.limits.kv_blocks_total} * worker.limits.block_tokens);
}

namespace {

/// Through what is queued there now.
void pass_queue(Passage& passage, const WorkerView& worker) {
    const bool decodes = can_decode(worker);
    const ExpectedLoad& load = worker.expected;
    if (load.prompt_tokens <= 0) { return; }
    // The prompt whose turn it is, then as many equal ones as there are.
    const double prompts = std::max(1.0, load.prompts);
    const double first = load.first_tokens > 0 ? load.first_tokens : load.prompt_tokens / prompts;
    const double since = std::min(load.first_since_seconds, first * worker.costs.prefill.token_seconds);
    passage.compute(first, context_sum(0, first), decodes);
    passage.pass(-since);
    double left = load.prompt_tokens - first;
    const double each = prompts > 1 ? left / (prompts - 1) : left;
    for (std::size_t i = 1; left > 1e-9; ++i) {
        const double tokens = i + 1 < kPromptsForeseen ? std::min(left, std::max(each, 1.0)) : left;
        passage.compute(tokens, context_sum(0, each) * tokens / std::max(each, 1.0), decodes);
        left -= tokens;
    }
}

/// `queue`: what it has passed until now, rounded.
PrefillForecast with_prompt(Passage& passage, double queue, double cached, double own) {
    passage.compute(own, context_sum(cached, own), false);
    const double end = passage.rounded();
    return {.queue_seconds = queue,
            .busy_seconds = end - queue,
            .ttft_seconds = end + passage.whole_steps(),
            .sequences_then = passage.sequences()};
}

}  // namespace

PrefillForecast forecast_prefill(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached) {
    Passage passage(worker, query);
    pass_queue(passage, worker);
    return with_prompt(passage, passage.rounded(), cached, static_cast<double>(query.prompt_tokens - cached));
}

std::array<PrefillForecast, kLengths.size()> forecast_prefills(const WorkerView& worker, const PlaceQuery& query,
                                                               std::size_t count) {
    Passage passage(worker, query);
    pass_queue(passage, worker);
    const double queue = passage.rounded();
    const Passage::Mark mark = passage.mark();
    std::array<PrefillForecast, kLengths.size()> forecasts;
    for (std::size_t i = 0; i < forecasts.size(); ++i) {
        if (i >= count) {
            forecasts[i] = forecasts[count - 1];
            continue;
        }
        passage.go_back(mark);
        forecasts[i] = with_prompt(passage, queue, 0, kLengths[i]);
    }
    return forecasts;
}

WorkerView without_late(const WorkerView& worker) {
    WorkerView others = worker;
    const LatePrompts& late = worker.expected.late;
    if (late.prompts == 0) { return others; }
    ExpectedLoad& load = others.expected;
    load.prompts = std::max(0.0, load.prompts - late.prompts);
    load.prompt_tokens = std::max(0.0, load.prompt_tokens - late.tokens);
    load.first_tokens = std::min(load.prompt_tokens, late.next_tokens);
    return others;
}

double forecast_tpot(const WorkerView& worker, const PlaceQuery& query) {
    return forecast_tpot(worker, query, worker.expected.decoding + worker.expected.coming);
}

namespace {

/// Decode steps of a worker with one more sequence: without tokens of prompts, and with them.
struct StepPair {
    double bare;
    double filled;
};
StepPair decode_steps(const WorkerView& worker, const PlaceQuery& query, double company) {
    const double sequences = std::min(static_cast<double>(worker.limits.batch_sequences_max), company + 1);
    const double step = decode_step_seconds(worker.costs.decode, sequences,
                                            company * context_of_one(worker, query) + query.prompt_tokens);
    return {step, std::max(step, std::min(worker.costs.mixed.seconds, query.tpot_seconds_target))};
}

double mean_of(const StepPair& steps, double filled_share) {
    return filled_share * steps.filled + (1 - filled_share) * steps.bare;
}

}  // namespace

double forecast_tpot(const WorkerView& worker, const PlaceQuery& query, double company) {
    // Prompts that come later are computed in the same steps, as often as lately.
    return mean_of(decode_steps(worker, query, company), worker.costs.mixed.share);
}

double tell_tpot(const WorkerView& worker, const PlaceQuery& query, double company, double queue_seconds) {
    const StepPair steps = decode_steps(worker, query, company);
    const double share = worker.costs.mixed.share;
    if (share <= 0 || share >= 1) { return mean_of(steps, share); }
    // Prompts come for `share` of the time. Those that come while this one waits are left when it begins to decode; to
    // compute them and what comes meanwhile takes that / (1 - share), and until then no step is without.
    const double left = queue_seconds * share / (1 - share);
    const double decoding = std::min<double>(query.new_tokens_max, kRemainingTokens) * steps.filled;
    const double busy = decoding > 0 ? std::min(1.0, left / decoding) : 1;
    return mean_of(steps, share + (1 - share) * busy);
}

double forecast_decode_wait(const WorkerView& worker, const PlaceQuery& query) {
    const double sequences_over = decode_sequences(worker) + 1 - static_cast<double>(worker.limits.batch_sequences_max);
    const double room =
        static_cast<double>(worker.load.blocks_room) - static_cast<double>(worker.pending.decode_blocks);
    const double blocks_over = static_cast<double>(blocks_needed(worker, query)) - room;
    if (sequences_over <= 0 && blocks_over <= 0) { return 0; }
    const double tpot = forecast_tpot(worker, query);
    double wait = 0;
    if (sequences_over > 0) {
        const double running = std::max(1.0, static_cast<double>(worker.load.decode_sequences));
        wait = kRemainingTokens * tpot * sequences_over / running;
    }
    if (blocks_over > 0) {
        const double used = std::max(1.0, static_cast<double>(worker.load.blocks_used));
        wait = std::max(wait, kRemainingTokens * tpot * blocks_over / used);
    }
    return wait;
}

PlaceQuery paced_local(const WorkerView& worker, const PlaceQuery& query) {
    PlaceQuery paced = query;
    if (worker.role == Role::decode) {
        paced.tpot_seconds_target = std::min(paced.tpot_seconds_target, worker.expected.tpot_seconds_strictest);
    }
    return paced;
}

LocalForecast forecast_local(const WorkerView& worker, const PlaceQuery& query, std::uint32_t cached) {
    LocalForecast local{};
    local.prefill = forecast_prefill(worker, paced_local(worker, query), cached);
    local.tpot_seconds = forecast_tpot(worker, query, local.prefill.sequences_then);
    local.wait_seconds = std::max(0.0, forecast_decode_wait(worker, query) - local.prefill.ttft_seconds);
    const double others = local.prefill.busy_seconds * worker.expected.decoding;
    // Whoever decodes there waits for whole steps, wherever the prompt was computed: that decides nothing.
    local.cost_seconds = local.prefill.queue_seconds + local.prefill.busy_seconds + others +
                         local.tpot_seconds * weighed_tokens(query) + local.wait_seconds;
    return local;
}

DecodeForecast forecast_decode(const WorkerView& worker, const PlaceQuery& query, double prefill_seconds) {
    DecodeForecast decode{};
    decode.tpot_seconds = forecast_tpot(worker, query);
    decode.wait_seconds = std::max(0.0, forecast_decode_wait(worker, query) - prefill_seconds);
    decode.cost_seconds = decode.wait_seconds + decode.tpot_seconds * weighed_tokens(query);
    return decode;
}

double forecast_handoff(const WorkerView& worker, double tokens, double prefill_seconds) {
    const double bytes = tokens * static_cast<double>(worker.limits.kv_bytes_per_token);
    const double alone = transfer_seconds(worker.costs.transfer, bytes);
    if (worker.load.kv_awaited == 0 || alone <= 0) { return alone; }
    const double others = std::max(0.0, worker.load.kv_awaited - prefill_seconds / alone);
    return transfer_seconds(worker.costs.transfer, bytes, others);
}

bool prefill_queue_full(const WorkerView& worker) {
    return prefill_requests_held(worker) >= worker.limits.queue_requests_max;
}

bool decode_queue_full(const WorkerView& worker) {
    return decode_requests_held(worker) >= worker.limits.queue_requests_max;
}

bool may_do_both(const WorkerView& worker, const PlaceRules& rules, bool prefill_exists) {
    if (worker.role == Role::mixed) { return true; }
    return worker.role == Role::decode &&
           (!prefill_exists || (rules.local_prefill_by_prediction && worker.costs.prefill_learned));
}

}  // namespace scheduler
