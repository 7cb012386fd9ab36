#include "sim/vllm_replay.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "sim/vllm_pool.h"

namespace sim {
namespace {

using scheduler::planner::PromptChunk;

struct Sequence {
    std::size_t index = 0;
    std::uint32_t input = 0;
    std::uint32_t output = 0;
    double arrival = 0;
    std::uint32_t computed = 0;  // tokens whose KV is there or is being computed
    std::uint32_t promised = 0;  // tokens generated, or to be by a step under way
    std::uint32_t generated = 0;
    double first_token = 0;
    VllmPool::Blocks blocks;

    std::uint32_t tokens() const { return input + promised; }
    std::uint64_t name() const { return index + 1; }
};

struct Part {
    Sequence* sequence;
    std::uint32_t tokens;
    bool is_sampled;
};

struct Step {
    std::vector<Part> parts;
    double ends = 0;
};

class Replay {
public:
    Replay(const ReplayOptions& options, const scheduler::planner::StepTimes& times,
           const std::vector<ReplayRequest>& requests)
        : options_(options), times_(times), pool_(options.blocks_total), sequences_(requests.size()) {
        std::vector<std::size_t> order(requests.size());
        std::iota(order.begin(), order.end(), 0u);
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t a, std::size_t b) { return requests[a].arrival_s < requests[b].arrival_s; });
        for (std::size_t i = 0; i < order.size(); ++i) {
            const ReplayRequest& request = requests[order[i]];
            Sequence& sequence = sequences_[i];
            sequence.index = order[i];
            sequence.input = request.input_tokens;
            sequence.output = request.output_tokens;
            sequence.arrival = request.arrival_s - requests[order[0]].arrival_s;
        }
        result_.outcomes.resize(requests.size());
    }

    ReplayResult run() {
        std::deque<Step> under_way;
        const std::size_t steps_at_once = options_.plans_ahead ? 2 : 1;
        double gpu_free = 0;
        while (ended_ < sequences_.size()) {
            while (next_ < sequences_.size() && due(next_) <= now_) {
                waiting_.push_back(&sequences_[next_++]);
            }
            if (under_way.size() < steps_at_once) {
                Step step = plan();
                if (!step.parts.empty()) {
                    step.ends = std::max(now_, gpu_free) + seconds(step);
                    gpu_free = step.ends;
                    under_way.push_back(std::move(step));
                    continue;
                }
            }
            if (under_way.empty()) {
                CHECK(next_ < sequences_.size(), "nothing runs and nothing will come");
                now_ = due(next_);
                continue;
            }
            now_ = std::max(now_, under_way.front().ends);
            finish(under_way.front());
            under_way.pop_front();
        }
        return std::move(result_);
    }

private:
    double due(std::size_t index) const { return sequences_[index].arrival + options_.arrival_seconds; }
    std::uint32_t blocks_for(std::uint32_t tokens) const {
        return (tokens + options_.block_tokens - 1) / options_.block_tokens;
    }

    void add(Step& step, Sequence& sequence, std::uint32_t tokens) {
        sequence.computed += tokens;
        const bool is_sampled = sequence.computed == sequence.tokens();
        if (is_sampled) { ++sequence.promised; }
        step.parts.push_back({&sequence, tokens, is_sampled});
    }

    /// Takes the latest running sequence out of the way.
    Sequence* preempt() {
        Sequence* victim = running_.back();
        running_.pop_back();
        pool_.give_back(victim->blocks);
        if (!options_.keeps_prefixes) { victim->blocks.former.clear(); }
        victim->computed = 0;
        waiting_.push_front(victim);
        ++result_.preemptions;
        return victim;
    }

    Step plan() {
        Step step;
        std::uint32_t budget = options_.tokens_max;
        bool is_short = false;
        for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
            Sequence* sequence = running_[i];
            if (sequence->promised >= sequence->output) { continue; }  // its last token is on its way
            const std::uint32_t tokens = std::min(sequence->tokens() - sequence->computed, budget);
            const std::uint32_t needed = blocks_for(sequence->computed + tokens);
            const auto held = static_cast<std::uint32_t>(sequence->blocks.held.size());
            bool is_there = true;
            while (needed > held + pool_.free_blocks()) {
                is_short = true;
                if (preempt() == sequence) {
                    is_there = false;
                    break;
                }
            }
            if (!is_there) { break; }
            if (needed > held) { pool_.take(sequence->blocks, sequence->name(), 0, needed - held); }
            add(step, *sequence, tokens);
            budget -= tokens;
        }
        while (!is_short && !waiting_.empty() && budget > 0 && running_.size() < options_.sequences_max) {
            Sequence* sequence = waiting_.front();
            if (sequence->promised > sequence->generated) { break; }  // its token is on its way from before
            const std::uint32_t kept =
                pool_.kept(sequence->blocks, sequence->name(), (sequence->tokens() - 1) / options_.block_tokens);
            const std::uint32_t cached = kept * options_.block_tokens;
            const std::uint32_t tokens = std::min(sequence->tokens() - cached, budget);
            const std::uint32_t fresh = blocks_for(cached + tokens) - kept;
            // The whole prompt has to fit, not just the first chunk (scheduler_reserve_full_isl).
            if (blocks_for(sequence->tokens()) > pool_.free_blocks()) { break; }
            waiting_.pop_front();
            pool_.take(sequence->blocks, sequence->name(), kept, fresh);
            sequence->computed = cached;
            running_.push_back(sequence);
            add(step, *sequence, tokens);
            budget -= tokens;
        }
        result_.running_max = std::max(result_.running_max, static_cast<std::uint32_t>(running_.size()));
        result_.kv_share_max =
            std::max(result_.kv_share_max, 1 - static_cast<double>(pool_.free_blocks()) / options_.blocks_total);
        return step;
    }

    double seconds(const Step& step) {
        prompts_.clear();
        scheduler::planner::StepShape shape;
        for (const Part& part : step.parts) {
            const std::uint32_t before = part.sequence->computed - part.tokens;
            if (part.tokens == 1 && before > 0) {
                shape.decode_sequences += 1;
                shape.decode_context += before + 1;
            } else {
                prompts_.push_back({static_cast<double>(part.tokens), static_cast<double>(before)});
            }
            if (part.is_sampled) { shape.sampled += 1; }
        }
        shape.prompts = prompts_;
        ++result_.steps;
        return times_.seconds(shape);
    }

    void finish(const Step& step) {
        for (const Part& part : step.parts) {
            if (!part.is_sampled) { continue; }
            Sequence& sequence = *part.sequence;
            ++sequence.generated;
            if (sequence.generated == 1) { sequence.first_token = now_; }
            if (sequence.generated < sequence.output) { continue; }
            ReplayOutcome& outcome = result_.outcomes[sequence.index];
            outcome.ttft_s = sequence.first_token - sequence.arrival;
            if (sequence.output > 1) { outcome.tpot_s = (now_ - sequence.first_token) / (sequence.output - 1); }
            outcome.ended_s = now_;
            result_.makespan_s = now_;
            if (const auto at = std::find(running_.begin(), running_.end(), &sequence); at != running_.end()) {
                running_.erase(at);
                pool_.give_back(sequence.blocks);
            } else {
                waiting_.erase(std::find(waiting_.begin(), waiting_.end(), &sequence));
            }
            ++ended_;
        }
    }

    const ReplayOptions& options_;
    const scheduler::planner::StepTimes& times_;
    VllmPool pool_;
    std::vector<Sequence> sequences_;  // by arrival
    std::size_t next_ = 0;
    std::size_t ended_ = 0;
    std::deque<Sequence*> waiting_;
    std::vector<Sequence*> running_;
    std::vector<PromptChunk> prompts_;
    double now_ = 0;
    ReplayResult result_;
};

}  // namespace

base::Result<ReplayResult> replay_vllm(const ReplayOptions& options, const scheduler::planner::StepTimes& times,
                                       const std::vector<ReplayRequest>& requests) {
    if (options.sequences_max == 0 || options.tokens_max == 0 || options.block_tokens == 0) {
        return base::fail(base::ErrorCode::invalid_argument, "a batch has to have room for a sequence and a token");
    }
    const std::uint64_t room = static_cast<std::uint64_t>(options.blocks_total) * options.block_tokens;
    for (const ReplayRequest& request : requests) {
        const std::uint64_t tokens = static_cast<std::uint64_t>(request.input_tokens) + request.output_tokens;
        if (request.input_tokens > 0 && request.output_tokens > 0 && tokens <= options.context_max && tokens <= room) {
            continue;
        }
        return base::fail(base::ErrorCode::invalid_argument,
                          "request " + request.id + " with " + std::to_string(request.input_tokens) + " + " +
                              std::to_string(request.output_tokens) + " tokens can never run: KV has room for " +
                              std::to_string(room) + ", a sequence may have " + std::to_string(options.context_max));
    }
    if (requests.empty()) { return ReplayResult{}; }
    return Replay(options, times, requests).run();
}

}  // namespace sim
