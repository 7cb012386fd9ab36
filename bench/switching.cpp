#include "bench/switching.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <utility>

#include "base/metrics.h"
#include "bench/packed_file.h"
#include "bench/statistics.h"
#include "engine/model/model_config.h"
#include "text/tokenizer.h"
#include "worker/kv_tiers_part.h"
#include "worker/step_loop.h"

namespace bench {
namespace {

using base::Duration;
using base::ErrorCode;
using base::Result;
using base::TimePoint;
using Tokens = std::vector<base::TokenId>;

constexpr std::uint32_t kBlockTokens = 16;
constexpr std::uint32_t kPriorities = 10;
constexpr double kStaysHot = 0.9;  // of the Markov pattern: from one change of priorities to the next
constexpr std::uint32_t kAheadPercent = 50;

double seconds_of(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}
Duration duration_of(double seconds) {
    return std::chrono::round<Duration>(std::chrono::duration<double>(seconds));
}

struct Turn {
    Tokens user;
    std::uint32_t answer_tokens = 0;  // > 0
};
using Conversation = std::vector<Turn>;

std::size_t tokens_of(const Conversation& conversation) {
    std::size_t tokens = 0;
    for (const Turn& turn : conversation) {
        tokens += turn.user.size() + turn.answer_tokens;
    }
    return tokens;
}

/// Turns until the context is full, at most `turns`.
void cut(Conversation& conversation, std::size_t turns, std::uint32_t context_tokens) {
    conversation.resize(std::min(conversation.size(), turns));
    while (conversation.size() > 1 && tokens_of(conversation) > context_tokens) {
        conversation.pop_back();
    }
}

std::size_t turns_of(const SwitchingOptions& options, std::mt19937& random) {
    const auto most = static_cast<std::size_t>(std::lround(2 * options.turns_mean - 1));
    return std::uniform_int_distribution<std::size_t>(1, std::max<std::size_t>(most, 1))(random);
}

std::vector<Conversation> make_conversations(const SwitchingOptions& options, std::uint32_t context_tokens,
                                             std::uint32_t vocabulary, std::mt19937& random) {
    constexpr double kSigma = 0.8;
    const auto length = [&](double mean) {
        std::lognormal_distribution<double> any(std::log(mean) - kSigma * kSigma / 2, kSigma);
        return static_cast<std::uint32_t>(std::clamp(any(random), 4.0, 8 * mean));
    };
    std::uniform_int_distribution<base::TokenId> token(0, static_cast<base::TokenId>(vocabulary - 1));
    std::vector<Conversation> conversations(options.conversations);
    for (Conversation& conversation : conversations) {
        conversation.resize(turns_of(options, random));
        for (Turn& turn : conversation) {
            turn.user.resize(length(options.user_tokens));
            std::generate(turn.user.begin(), turn.user.end(), [&] { return token(random); });
            turn.answer_tokens = length(options.answer_tokens);
        }
        cut(conversation, conversation.size(), context_tokens);
    }
    return conversations;
}

Result<Conversation> conversation_of(std::string_view line, const text::Tokenizer& tokenizer, std::uint32_t joined) {
    boost::system::error_code error;
    const boost::json::value row = boost::json::parse(line, error);
    const boost::json::value* turns = !error && row.is_object() ? row.get_object().if_contains("turns") : nullptr;
    const auto wrong = [] {
        return base::fail(ErrorCode::invalid_argument, "is no JSON object with \"turns\", a list of [role, text]");
    };
    if (turns == nullptr || !turns->is_array()) { return wrong(); }
    Conversation conversation;
    std::uint32_t in_turn = 0;  // answers of the last one
    bool was_answer = true;
    for (const boost::json::value& each : turns->get_array()) {
        if (!each.is_array() || each.get_array().size() != 2 || !each.get_array()[0].is_string() ||
            !each.get_array()[1].is_string()) {
            return wrong();
        }
        auto tokens = tokenizer.encode(std::string_view(each.get_array()[1].get_string()));
        if (!tokens) { return base::pass_on(tokens); }
        if (tokens->empty()) { continue; }
        const bool is_answer = each.get_array()[0].get_string() == "assistant";
        if (!is_answer && was_answer && (conversation.empty() || in_turn == joined)) {
            conversation.emplace_back();
            in_turn = 0;
        }
        if (conversation.empty()) { continue; }  // begins with an answer
        if (is_answer) {
            conversation.back().answer_tokens += static_cast<std::uint32_t>(tokens->size());
            ++in_turn;
        } else {
            conversation.back().user.insert(conversation.back().user.end(), tokens->begin(), tokens->end());
        }
        was_answer = is_answer;
    }
    if (!conversation.empty() && conversation.back().answer_tokens == 0) { conversation.pop_back(); }
    return conversation;
}

Result<std::vector<Conversation>> read_conversations(const SwitchingOptions& options, std::uint32_t context_tokens,
                                                     std::mt19937& random) {
    const auto tokenizer = text::Tokenizer::load(options.model_dir, {});
    if (!tokenizer) { return base::pass_on(tokenizer); }
    std::vector<Conversation> conversations;
    const auto read = each_line(options.dialogues_path, [&](std::string_view line) -> Result<bool> {
        auto conversation = conversation_of(line, **tokenizer, options.joined);
        if (!conversation) { return base::pass_on(conversation); }
        cut(*conversation, turns_of(options, random), context_tokens);
        if (!conversation->empty()) { conversations.push_back(std::move(*conversation)); }
        return conversations.size() < options.conversations;
    });
    if (!read) { return base::pass_on(read); }
    if (conversations.empty()) {
        return base::fail(ErrorCode::invalid_argument, options.dialogues_path + " holds no conversation");
    }
    return conversations;
}

TailFigures tail_of(std::vector<double> values) {
    if (values.empty()) { return {}; }
    std::sort(values.begin(), values.end());
    return {values.size(), percentile(values, 0.5), percentile(values, 0.95), percentile(values, 0.99),
            percentile(values, 0.999)};
}

/// One mode over one list of conversations: a step loop, who talks to it, and what is measured.
class Run final : public worker::OutputSink {
public:
    Run(const SwitchingOptions& options, SwapMode mode, std::uint32_t seed, std::span<const Conversation> conversations,
        std::uint32_t pool_blocks, SwitchingMachine& machine)
        : options_(options),
          mode_(mode),
          conversations_(conversations),
          machine_(machine),
          random_(seed),
          cache_({.blocks_total = pool_blocks, .block_tokens = kBlockTokens}),
          slots_({.blocks_total = machine.tier_slots(), .block_tokens = kBlockTokens}),
          loop_({.limits = limits(), .hash_key = {}, .model = "bench", .worker = "bench", .role = worker::Role::mixed},
                machine.engine(), cache_, *this, board_, machine.clock(), metrics_) {
        loop_.attach(worker::Part::whole, &whole_);
        figure_.mode = mode;
        figure_.seed = seed;
        figure_.pool_blocks = pool_blocks;
        figure_.block_bytes = static_cast<double>(machine.block_bytes());
    }

    Result<SwitchingFigure> run() {
        auto begun =
            machine_.begin(mode_, [this](kv_transfer::TierEvent event) { tiers_->on_event(0, std::move(event)); });
        if (!begun) { return base::pass_on(begun); }
        if (mode_ != SwapMode::recompute) {
            worker::KvTiers::Tier tier{.name = "host", .slots = &slots_, .mover = &machine_.mover()};
            tier.save_blocks = goes_through(mode_) ? worker::kTierSaveBlocks : 0;
            tier.block_bytes = machine_.block_bytes();
            tier.keeps_loaded = mode_ == SwapMode::reuse || goes_through(mode_);
            tiers_ = std::make_unique<worker::KvTiersPart>(std::vector{tier}, limits(), loop_, "bench", metrics_);
            loop_.add_helper(tiers_.get());
            loop_.add_tier(slots_);
        }
        begin_ = now();
        users_.resize(options_.users);
        for (User& user : users_) {
            user.next_turn = begin_ + think();
        }
        draw_priorities();
        while (!error_ && !is_done()) {
            turn();
        }
        finish();
        if (error_) { return tl::unexpected(*error_); }
        return figure_;
    }

    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (worker::SequenceOutput& output : outputs) {
            User& user = users_[base::raw(output.key.request) % options_.users];
            for (const engine::SampledToken& token : output.tokens) {
                if (user.answer.empty()) {
                    ttft_.push_back(seconds_of(now() - user.asked));
                } else {
                    gaps_.push_back({seconds_of(now() - user.last_token), seconds_of(stalled_ - user.stalled_before)});
                }
                user.last_token = now();
                user.stalled_before = stalled_;
                user.answer.push_back(token.token);
            }
            if (output.finish == worker::Finish::none) { continue; }
            if (output.finish != worker::Finish::length) {
                error_ = output.error.value_or(base::Error{ErrorCode::internal, "a stream ended before its length"});
                return;
            }
            end_turn(user);
        }
    }

private:
    struct User {
        const Conversation* conversation = nullptr;
        std::size_t turn = 0;
        Tokens history;  // of the conversation, up to the turn's question
        std::optional<TimePoint> next_turn;
        worker::RequestKey key{};
        bool waits = false;  // for the rest of an answer
        TimePoint asked{};
        TimePoint last_token{};
        Duration stalled_before{};
        Tokens answer;
        std::int32_t priority = 0;
        bool is_hot = false;
    };
    struct Gap {
        double seconds = 0;
        double stalled = 0;
    };

    worker::WorkerOptions limits() const {
        worker::WorkerOptions limits = worker::WorkerOptions::defaults(options_.model_dir.empty());
        limits.batch_sequences_max = options_.users;
        limits.queue_requests_max = options_.users + 1;
        limits.kv_ahead_percent = mode_ == SwapMode::ahead ? kAheadPercent : 0;
        return limits;
    }
    TimePoint now() const { return machine_.clock().now(); }
    Duration think() { return duration_of(std::exponential_distribution<double>(1 / options_.think_s)(random_)); }
    bool is_done() const {
        return std::all_of(users_.begin(), users_.end(),
                           [](const User& user) { return !user.waits && !user.next_turn; }) &&
               !machine_.copies_pending();
    }

    void draw_priorities() {
        std::uniform_real_distribution<double> share(0, 1);
        std::uniform_int_distribution<std::int32_t> any(0, kPriorities - 1);
        for (User& user : users_) {
            if (options_.pattern == "markov") {
                if (share(random_) >= kStaysHot) { user.is_hot = !user.is_hot; }
                user.priority = any(random_) / 2 + (user.is_hot ? static_cast<std::int32_t>(kPriorities / 2) : 0);
            } else {
                user.priority = any(random_);
            }
            if (!user.waits) { continue; }
            if (worker::Sequence* sequence = loop_.find(user.key)) { sequence->request.priority = user.priority; }
        }
    }

    /// Turns that are due.
    void ask() {
        for (std::size_t i = 0; i < users_.size(); ++i) {
            User& user = users_[i];
            if (!user.next_turn || *user.next_turn > now()) { continue; }
            user.asked = *user.next_turn;
            user.next_turn.reset();
            if (user.conversation == nullptr) {
                if (next_conversation_ == conversations_.size()) { continue; }
                user.conversation = &conversations_[next_conversation_++];
                user.turn = 0;
                user.history.clear();
            }
            const Turn& turn = (*user.conversation)[user.turn];
            user.history.insert(user.history.end(), turn.user.begin(), turn.user.end());
            user.answer.clear();
            user.waits = true;
            user.key = {base::RequestId{++requests_ * options_.users + i}, base::Epoch{0}};
            worker::StartRequest start;
            start.key = user.key;
            start.gateway = worker::GatewayId{1};
            start.prompt = user.history;
            start.stop.new_tokens_max = turn.answer_tokens;
            start.priority = user.priority;
            figure_.prompt_tokens += turn.user.size();
            known_tokens_ += turn.user.size() + turn.answer_tokens;
            if (!loop_.post_command(std::move(start))) {
                error_ = base::Error{ErrorCode::internal, "the step loop takes no more requests"};
            }
        }
    }

    void end_turn(User& user) {
        user.waits = false;
        ++figure_.turns;
        figure_.tokens += user.answer.size();
        user.history.insert(user.history.end(), user.answer.begin(), user.answer.end());
        if (++user.turn == user.conversation->size()) { user.conversation = nullptr; }
        if (user.conversation != nullptr || next_conversation_ < conversations_.size()) {
            user.next_turn = now() + think();
        }
    }

    TimePoint next_arrival() const {
        TimePoint next = now() + std::chrono::seconds(60);
        for (const User& user : users_) {
            if (user.next_turn) { next = std::min(next, *user.next_turn); }
        }
        return next;
    }
    void wait(TimePoint until) {
        machine_.wait(until, [this](TimePoint at) { loop_.wait({}, at); });
    }

    /// One step, or a wait for somebody.
    void turn() {
        ask();
        loop_.work();
        const TimePoint before = now();
        const auto ticket = loop_.begin_step([this] { loop_.wake(); });
        if (!ticket) {
            loop_.settle();
            const bool copies = machine_.copies_pending();
            const bool anybody = std::any_of(users_.begin(), users_.end(), [](const User& user) { return user.waits; });
            wait(std::min(next_arrival(), loop_.next_wake()));
            if (copies && anybody) { stalled_ += now() - before; }
            return;
        }
        if (last_ended_) { stalled_ += machine_.copied_between(*last_ended_, now()); }
        loop_.settle();
        const TimePoint give_up = now() + std::chrono::minutes(10);
        while (!machine_.engine().ready(*ticket) && now() < give_up) {
            wait(std::min(next_arrival(), now() + std::chrono::seconds(1)));
            ask();
            loop_.work();
            loop_.settle();
        }
        auto result = machine_.engine().collect(*ticket, give_up);
        if (!result) {
            error_ = result.error();
            loop_.finish_step(std::move(result));
            return;
        }
        last_ended_ = result->ended;
        for (const engine::BatchEntry& entry : result->batch.entries()) {
            computed_tokens_ += entry.tokens.size();
        }
        loop_.finish_step(std::move(result));
        loop_.settle();
        if (++figure_.steps % options_.update_steps == 0) { draw_priorities(); }
    }

    void finish() {
        figure_.seconds = seconds_of(now() - begin_);
        loop_.end_all();
        loop_.settle();
        const TimePoint give_up = now() + std::chrono::seconds(60);
        while (loop_.parts_busy() && now() < give_up) {
            wait(now() + std::chrono::milliseconds(100));
            loop_.work();
            loop_.settle();
        }
        loop_.close();
        figure_.swaps = machine_.counts();
        machine_.end();
        for (const char* cause : {"growth", "priority"}) {
            figure_.preemptions += static_cast<std::uint64_t>(
                metrics_
                    .counter("sluice_worker_preemptions_total",
                             "Sequences that lost their KV memory to others, which grew or have a higher priority",
                             {{"model", "bench"}, {"cause", cause}})
                    .Value());
        }
        const auto ahead_bytes = [this](const char* outcome) {
            return metrics_
                .counter("sluice_kv_ahead_bytes_total",
                         "Bytes of KV that were loaded before their sequence had memory, by whether it found them when "
                         "it had",
                         {{"outcome", outcome}})
                .Value();
        };
        figure_.ahead_used_bytes = ahead_bytes("used");
        figure_.ahead_wasted_bytes = ahead_bytes("wasted");
        figure_.tokens_recomputed = computed_tokens_ - std::min(computed_tokens_, known_tokens_);
        figure_.stall_seconds = seconds_of(stalled_);
        figure_.ttft = tail_of(std::move(ttft_));
        std::vector<double> gaps;
        for (const Gap& gap : gaps_) {
            gaps.push_back(gap.seconds);
        }
        figure_.tbt = tail_of(std::move(gaps));
        double all = 0;
        double stalled = 0;
        for (const Gap& gap : gaps_) {
            if (gap.seconds < figure_.tbt.p99) { continue; }
            all += gap.seconds;
            stalled += gap.stalled;
        }
        figure_.stall_share_p99 = all > 0 ? stalled / all : 0;
    }

    const SwitchingOptions& options_;
    const SwapMode mode_;
    const std::span<const Conversation> conversations_;
    SwitchingMachine& machine_;
    std::mt19937 random_;
    base::Metrics metrics_;
    kv_cache::KvCache cache_;
    kv_cache::KvCache slots_;
    worker::ReportBoard board_;
    worker::RolePart whole_;
    worker::StepLoop loop_;
    std::unique_ptr<worker::KvTiersPart> tiers_;

    TimePoint begin_{};
    std::vector<User> users_;
    std::size_t next_conversation_ = 0;
    std::uint64_t requests_ = 0;
    std::optional<TimePoint> last_ended_;  // of the last step
    Duration stalled_{};
    std::uint64_t computed_tokens_ = 0;
    std::uint64_t known_tokens_ = 0;  // of all turns that were asked: what has to be computed once
    std::vector<double> ttft_;
    std::vector<Gap> gaps_;
    SwitchingFigure figure_;
    std::optional<base::Error> error_;
};

/// Blocks for the wanted share of what all who talk at once hold at the ends of their conversations.
std::uint32_t pool_blocks_of(const SwitchingOptions& options, std::span<const Conversation> conversations) {
    double blocks = 0;
    std::size_t most = 0;
    for (const Conversation& conversation : conversations) {
        const std::size_t own = tokens_of(conversation) / kBlockTokens + 1;
        blocks += static_cast<double>(own);
        most = std::max(most, own);
    }
    blocks *= options.memory_share * options.users / static_cast<double>(conversations.size());
    return static_cast<std::uint32_t>(std::max(blocks, static_cast<double>(most + 1)));
}

std::uint32_t tier_slots_of(const SwitchingOptions& options, std::span<const Conversation> conversations) {
    std::size_t most = 0;
    for (const Conversation& conversation : conversations) {
        most = std::max(most, tokens_of(conversation) / kBlockTokens + 1);
    }
    return static_cast<std::uint32_t>(2 * most * options.users);
}

}  // namespace

Result<std::vector<SwitchingFigure>> measure_switching(const SwitchingOptions& options) {
    std::vector<SwapMode> modes;
    for (const std::string& name : options.modes) {
        const auto mode = swap_mode_of(name);
        if (!mode) { return base::pass_on(mode); }
        modes.push_back(*mode);
    }
    if (modes.empty()) {
        modes = {SwapMode::recompute, SwapMode::paged,   SwapMode::groups, SwapMode::async,
                 SwapMode::reuse,     SwapMode::through, SwapMode::ahead};
    }
    std::uint32_t context_tokens = 8192;
    const bool is_real = !options.model_dir.empty();
    if (is_real) {
        const auto config = engine::read_model_config(options.model_dir);
        if (!config) { return base::pass_on(config); }
        context_tokens = config->context_tokens;
    }
    std::vector<SwitchingFigure> figures;
    std::unique_ptr<SwitchingMachine> machine;
    for (std::uint32_t round = 0; round < options.rounds; ++round) {
        const std::uint32_t seed = options.seed + round;
        std::mt19937 random(seed);
        auto conversations =
            is_real ? read_conversations(options, context_tokens, random)
                    : Result<std::vector<Conversation>>(make_conversations(options, context_tokens, 32000, random));
        if (!conversations) { return base::pass_on(conversations); }
        const std::uint32_t pool_blocks = pool_blocks_of(options, *conversations);
        if (machine == nullptr) {
            const std::uint32_t slots = tier_slots_of(options, *conversations);
            if (is_real) {
                engine::EngineOptions engine;
                engine.model_dir = options.model_dir;
                engine.threads = options.threads;
                engine.packed_dir = options.packed_dir;
                engine.batch_sequences_max = options.users;
                auto real = real_machine(engine, pool_blocks, slots);
                if (!real) { return base::pass_on(real); }
                machine = std::move(*real);
            } else {
                machine = modelled_machine(options.gpu, 4 * pool_blocks, slots, context_tokens);
            }
        }
        for (std::size_t i = 0; i < modes.size(); ++i) {
            const SwapMode mode = modes[(i + round) % modes.size()];
            auto figure = Run(options, mode, seed, *conversations, pool_blocks, *machine).run();
            if (!figure) { return base::pass_on(figure, std::string(name_of(mode))); }
            figures.push_back(*figure);
        }
    }
    return figures;
}

}  // namespace bench
