#include "sim/policies.h"

#include <algorithm>
#include <array>
#include <functional>

#include "base/check.h"

namespace sim {
namespace {

constexpr std::array kNames{
    std::pair{Policy::sluice, std::string_view("sluice")},
    std::pair{Policy::sluice_no_admission, std::string_view("sluice-no-admission")},
    std::pair{Policy::round_robin, std::string_view("round-robin")},
    std::pair{Policy::least_load, std::string_view("least-load")},
    std::pair{Policy::cache_aware, std::string_view("cache-aware")},
};

bool fits(const RoutedWorker& worker, std::uint64_t tokens) {
    return worker.is_up && tokens <= worker.kv_tokens;
}

std::uint32_t cached_tokens(const RoutedWorker& worker, const RoutedRequest& request) {
    return std::min(worker.cached_blocks * worker.block_tokens, request.prompt_tokens - 1);
}

/// The one with the least of what `load` says among those that `may`.
std::optional<std::uint32_t> least(std::span<const RoutedWorker> workers,
                                   const std::function<bool(const RoutedWorker&)>& may,
                                   const std::function<std::uint64_t(const RoutedWorker&)>& load) {
    std::optional<std::uint32_t> best;
    for (std::uint32_t i = 0; i < workers.size(); ++i) {
        if (may(workers[i]) && (!best || load(workers[i]) < load(workers[*best]))) { best = i; }
    }
    return best;
}

std::optional<std::uint32_t> in_turn(std::span<const RoutedWorker> workers,
                                     const std::function<bool(const RoutedWorker&)>& may, std::uint64_t turn) {
    const auto count = static_cast<std::uint64_t>(std::count_if(workers.begin(), workers.end(), may));
    if (count == 0) { return std::nullopt; }
    std::uint64_t left = turn % count;
    for (std::uint32_t i = 0; i < workers.size(); ++i) {
        if (may(workers[i]) && left-- == 0) { return i; }
    }
    return std::nullopt;
}

}  // namespace

base::Result<Policy> parse_policy(std::string_view name) {
    std::string names;
    for (const auto& [policy, known] : kNames) {
        if (known == name) { return policy; }
        names += (names.empty() ? "" : ", ") + std::string(known);
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      "there is no policy \"" + std::string(name) + "\"; there are " + names);
}

std::string_view policy_name(Policy policy) {
    for (const auto& [known, name] : kNames) {
        if (known == policy) { return name; }
    }
    return "";
}

std::optional<Route> route(Policy policy, std::span<const RoutedWorker> workers, const RoutedRequest& request,
                           std::uint64_t turn) {
    CHECK(!is_scheduler(policy) && request.prompt_tokens > 0);
    const bool is_split = std::any_of(workers.begin(), workers.end(),
                                      [](const RoutedWorker& w) { return w.role == proto::Role::prefill; });
    const auto may_prefill = [&](const RoutedWorker& worker) {
        const std::uint64_t tokens = request.prompt_tokens + (is_split ? 0 : request.new_tokens_max);
        return fits(worker, tokens) && worker.role == (is_split ? proto::Role::prefill : proto::Role::mixed);
    };
    const auto may_decode = [&](const RoutedWorker& worker) {
        return fits(worker, std::uint64_t{request.prompt_tokens} + request.new_tokens_max) &&
               worker.role == proto::Role::decode;
    };
    const auto requests = [](const RoutedWorker& worker) -> std::uint64_t { return worker.requests; };
    const auto to_compute = [&](const RoutedWorker& worker) -> std::uint64_t {
        return worker.prompt_tokens + request.prompt_tokens - cached_tokens(worker, request);
    };
    const bool takes_turns = policy == Policy::round_robin;
    const auto prefill = takes_turns                     ? in_turn(workers, may_prefill, turn)
                         : policy == Policy::cache_aware ? least(workers, may_prefill, to_compute)
                                                         : least(workers, may_prefill, requests);
    if (!prefill) { return std::nullopt; }
    Route route{.prefill = *prefill, .decode = *prefill, .cached_tokens = cached_tokens(workers[*prefill], request)};
    if (!is_split) { return route; }
    const auto decode = takes_turns ? in_turn(workers, may_decode, turn) : least(workers, may_decode, requests);
    if (!decode) { return std::nullopt; }
    route.decode = *decode;
    return route;
}

}  // namespace sim
