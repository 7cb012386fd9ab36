#include "bench/sessions.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>

#include "base/check.h"

namespace bench {
namespace {

namespace json = boost::json;

constexpr std::uint32_t kMooncakeBlockTokens = 512;
constexpr std::uint32_t kBlockTokensMax = 1u << 20;
constexpr std::uint64_t kIdsOfOneConversation = std::uint64_t{1} << 32;

double uniform(std::mt19937_64& random) {
    return static_cast<double>(random() >> 11) * 0x1.0p-53;
}

/// Mean 1.
double gap(std::mt19937_64& random, Arrival arrival) {
    return arrival == Arrival::poisson ? -std::log1p(-uniform(random)) : 1.0;
}

std::uint32_t spread_length(std::mt19937_64& random, std::uint32_t length, double spread) {
    const double factor = 1 + spread * (2 * uniform(random) - 1);
    return static_cast<std::uint32_t>(std::max(1.0, std::round(length * factor)));
}

std::optional<double> number(const json::object& row, std::string_view name) {
    const json::value* value = row.if_contains(name);
    if (value == nullptr || !value->is_number()) { return std::nullopt; }
    const double found = value->is_double()  ? value->get_double()
                         : value->is_int64() ? static_cast<double>(value->get_int64())
                                             : static_cast<double>(value->get_uint64());
    if (!std::isfinite(found) || found < 0) { return std::nullopt; }
    return found;
}

std::optional<std::uint64_t> id_of(const json::value& value) {
    if (value.is_uint64()) { return value.get_uint64(); }
    if (value.is_int64() && value.get_int64() >= 0) { return static_cast<std::uint64_t>(value.get_int64()); }
    return std::nullopt;
}

void append(std::vector<BlockRun>& blocks, BlockRun run) {
    if (run.count == 0) { return; }
    if (!blocks.empty() && blocks.back().first + blocks.back().count == run.first) {
        blocks.back().count += run.count;
    } else {
        blocks.push_back(run);
    }
}

/// The first `count` blocks.
std::vector<BlockRun> first_blocks(const std::vector<BlockRun>& blocks, std::uint64_t count) {
    std::vector<BlockRun> kept;
    for (const BlockRun& run : blocks) {
        if (count == 0) { break; }
        const auto taken = static_cast<std::uint32_t>(std::min<std::uint64_t>(run.count, count));
        kept.push_back({run.first, taken});
        count -= taken;
    }
    return kept;
}

/// Reads line by line and knows what came before.
class Reader {
public:
    explicit Reader(const SessionTraceOptions& options) : options_(options), random_{options.seed} {}

    /// Empty when the line is understood; else what it needs.
    std::optional<std::string> take(const json::object& row) {
        if (row.contains("block_size")) { return begin_conversation(row); }
        if (row.contains("meta")) { return begin_agent(row); }
        if (row.contains("conv")) { return conversation_request(row); }
        return mooncake_request(row);
    }

    std::vector<PlannedRequest> plan;

    bool is_full() const { return options_.requests > 0 && plan.size() >= options_.requests; }

private:
    struct Agent {
        std::uint64_t session = 0;
        std::optional<std::size_t> last = {};
        std::uint32_t turns = 0;
        Seconds begin{};
        std::vector<BlockRun> blocks = {};
    };

    std::uint32_t tokens(double given, std::uint32_t most) const {
        return static_cast<std::uint32_t>(
            std::clamp(std::round(given / options_.length_divisor), 1.0, static_cast<double>(most)));
    }
    std::uint32_t block_tokens(std::uint32_t given) const { return std::max(1u, given / options_.length_divisor); }
    Seconds think(double seconds) const { return std::min(Seconds(seconds * options_.time_scale), options_.think_max); }

    void add(PlannedRequest request, Agent& agent) {
        if (options_.turns_max > 0 && ++agent.turns > options_.turns_max) { return; }
        request.session = agent.session;
        if (agent.last) { request.due = plan[*agent.last].due; }  // told for the order; not used
        request.after = agent.last;
        agent.last = plan.size();
        plan.push_back(std::move(request));
    }

    std::optional<std::string> begin_conversation(const json::object& row) {
        const auto size = number(row, "block_size");
        if (!size || *size < 1 || *size > kBlockTokensMax) { return "a block_size from 1 to 1048576 is needed"; }
        given_block_tokens_ = static_cast<std::uint32_t>(*size);
        agents_.clear();
        ++conversations_;
        conversation_begin_ += Seconds(gap(random_, options_.arrival) / options_.rate);
        agents_["[]"] = {.session = ++sessions_, .begin = conversation_begin_};
        return std::nullopt;
    }

    std::optional<std::string> begin_agent(const json::object& row) {
        const json::value* agent = row.if_contains("agent");
        const json::value* meta = row.if_contains("meta");
        if (conversations_ == 0 || agent == nullptr || !meta->is_object()) {
            return "a conversation before it, agent and meta are needed";
        }
        const double begin = number(meta->get_object(), "t").value_or(0);
        agents_[json::serialize(*agent)] = {.session = ++sessions_,
                                            .begin = conversation_begin_ + Seconds(begin * options_.time_scale)};
        return std::nullopt;
    }

    std::optional<std::string> conversation_request(const json::object& row) {
        const auto in = number(row, "in");
        const auto out = number(row, "out");
        const auto keep = number(row, "keep");
        const json::value* agent = row.if_contains("agent");
        const json::value* fresh = row.if_contains("new");
        if (conversations_ == 0 || !in || !out || !keep || agent == nullptr || fresh == nullptr || !fresh->is_array()) {
            return "a conversation before it, agent, in, out, keep and new are needed";
        }
        Agent& of = agents_[json::serialize(*agent)];
        if (of.session == 0) { of = {.session = ++sessions_, .begin = conversation_begin_}; }
        // An agent's first request goes on from what its parent had.
        const std::vector<BlockRun>& before = of.last ? of.blocks : agents_["[]"].blocks;
        std::vector<BlockRun> blocks = first_blocks(before, static_cast<std::uint64_t>(*keep));
        for (const json::value& run : fresh->get_array()) {
            if (!run.is_array() || run.get_array().size() != 2) { return "new must hold [first, count] pairs"; }
            const auto first = id_of(run.get_array()[0]);
            const auto count = id_of(run.get_array()[1]);
            if (!first || !count || *first >= kIdsOfOneConversation || *count > kBlockTokensMax) {
                return "new must hold [first, count] pairs";
            }
            append(blocks, {conversations_ * kIdsOfOneConversation + *first, static_cast<std::uint32_t>(*count)});
        }
        of.blocks = blocks;
        PlannedRequest request;
        request.due = of.begin;
        request.prompt_tokens = tokens(*in, options_.prompt_tokens_max);
        request.output_tokens = tokens(*out, options_.output_tokens_max);
        request.think = think(number(row, "think").value_or(0));
        request.blocks = std::move(blocks);
        request.block_tokens = block_tokens(given_block_tokens_);
        add(std::move(request), of);
        return std::nullopt;
    }

    std::optional<std::string> mooncake_request(const json::object& row) {
        const auto timestamp = number(row, "timestamp");
        const auto in = number(row, "input_length");
        const auto out = number(row, "output_length");
        const json::value* ids = row.if_contains("hash_ids");
        const json::value* session = row.if_contains("session_id");
        const bool goes_on = session != nullptr && agents_.contains(json::serialize(*session));
        if ((!timestamp && !goes_on) || !in || !out || ids == nullptr || !ids->is_array()) {
            return "timestamp, input_length, output_length and hash_ids are needed";
        }
        PlannedRequest request;
        request.prompt_tokens = tokens(*in, options_.prompt_tokens_max);
        request.output_tokens = tokens(*out, options_.output_tokens_max);
        request.due = Seconds(timestamp.value_or(0) / 1e3 * options_.time_scale);
        request.think = think(number(row, "delay").value_or(0) / 1e3);
        request.block_tokens = block_tokens(kMooncakeBlockTokens);
        for (const json::value& id : ids->get_array()) {
            const auto block = id_of(id);
            if (!block) { return "hash_ids must be whole numbers"; }
            append(request.blocks, {*block, 1});
        }
        if (session == nullptr) {
            plan.push_back(std::move(request));
            return std::nullopt;
        }
        Agent& of = agents_[json::serialize(*session)];
        if (of.session == 0) { of.session = ++sessions_; }
        add(std::move(request), of);
        return std::nullopt;
    }

    const SessionTraceOptions& options_;
    std::mt19937_64 random_;
    std::map<std::string, Agent> agents_;  // of the conversation; of Mooncake's traces all sessions
    std::uint64_t conversations_ = 0;
    std::uint64_t sessions_ = 0;
    Seconds conversation_begin_{};
    std::uint32_t given_block_tokens_ = 0;
};

/// In the order in which sessions begin, which is that in which the load generator wants to send; the first is due at
/// 0.
std::vector<PlannedRequest> in_order(std::vector<PlannedRequest> plan) {
    std::vector<std::size_t> order(plan.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
        order[i] = i;
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return plan[a].due < plan[b].due; });
    std::vector<std::size_t> place(plan.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
        place[order[i]] = i;
    }
    std::vector<PlannedRequest> sorted;
    sorted.reserve(plan.size());
    const Seconds first = plan.empty() ? Seconds{} : plan[order.front()].due;
    for (const std::size_t from : order) {
        sorted.push_back(std::move(plan[from]));
        PlannedRequest& request = sorted.back();
        request.due -= first;
        if (request.after) { request.after = place[*request.after]; }
    }
    return sorted;
}

std::string_view first_line(std::string_view text) {
    while (!text.empty() && (text.front() == '\n' || text.front() == '\r')) {
        text.remove_prefix(1);
    }
    return text.substr(0, text.find('\n'));
}

}  // namespace

std::vector<PlannedRequest> plan_turns(const TurnsWorkload& workload) {
    CHECK(workload.rate > 0 && workload.turns > 0, "rate " << workload.rate << ", turns " << workload.turns);
    std::mt19937_64 random{workload.seed};
    std::vector<PlannedRequest> plan;
    Seconds begin{};
    for (std::uint64_t session = 1; plan.size() < workload.requests; ++session) {
        begin += Seconds(gap(random, workload.arrival) / workload.rate);
        for (std::uint32_t turn = 0; turn < workload.turns && plan.size() < workload.requests; ++turn) {
            PlannedRequest request;
            request.due = begin;
            request.session = session;
            if (turn > 0) { request.after = plan.size() - 1; }
            request.think = workload.think * gap(random, workload.arrival);
            request.prompt_tokens = spread_length(random, workload.prompt_tokens, workload.length_spread);
            request.output_tokens = spread_length(random, workload.output_tokens, workload.length_spread);
            plan.push_back(std::move(request));
        }
    }
    return plan;
}

bool is_session_trace(std::string_view text) {
    boost::system::error_code error;
    const json::value row = json::parse(first_line(text), error);
    return !error && row.is_object() && (row.get_object().contains("hash_ids") || row.get_object().contains("conv"));
}

base::Result<std::vector<PlannedRequest>> parse_session_trace(std::string_view text,
                                                              const SessionTraceOptions& options) {
    CHECK(options.time_scale > 0 && options.rate > 0 && options.length_divisor > 0);
    Reader reader(options);
    std::size_t line_number = 0;
    while (!text.empty() && !reader.is_full()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        ++line_number;
        if (line.find_first_not_of(" \t\r") == std::string_view::npos) { continue; }
        boost::system::error_code error;
        const json::value row = json::parse(line, error);
        const auto wrong = error || !row.is_object() ? std::optional<std::string>("it is no JSON object")
                                                     : reader.take(row.get_object());
        if (wrong) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "line " + std::to_string(line_number) + " of the trace is not a request: " + *wrong);
        }
    }
    if (reader.plan.empty()) { return base::fail(base::ErrorCode::invalid_argument, "the trace has no requests"); }
    return in_order(std::move(reader.plan));
}

}  // namespace bench
