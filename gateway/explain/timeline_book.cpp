#include "gateway/explain/timeline_book.h"

#include <algorithm>
#include <charconv>
#include <chrono>

namespace gateway {

ExplainOptions ExplainOptions::read(base::Config& config) {
    ExplainOptions options;
    const auto count = [&](const char* key, std::size_t fallback) {
        return static_cast<std::size_t>(config.integer(key, static_cast<std::int64_t>(fallback), 0, 1'000'000));
    };
    options.requests_max = count("explain.requests_max", options.requests_max);
    options.misses_max = count("explain.misses_max", options.misses_max);
    options.from_anywhere = config.boolean("explain.from_anywhere", options.from_anywhere);
    return options;
}

std::vector<std::shared_ptr<const SequenceTimeline>> worst_of(
    const std::vector<std::shared_ptr<const SequenceTimeline>>& all) {
    if (all.size() <= RequestTimeline::kSequencesKept) { return all; }
    const auto latest = std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
        return a->first_token_at.value_or(base::TimePoint::max()) < b->first_token_at.value_or(base::TimePoint::max());
    });
    auto slowest =
        std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) { return a->tpot < b->tpot; });
    if (slowest == latest) { slowest = latest == all.begin() ? all.end() - 1 : all.begin(); }
    return {*latest, *slowest};
}

TimelineBook::TimelineBook(ExplainOptions options, const base::Clock& clock)
    : options_(options), clock_(clock), began_at_(clock.now()), minutes_(options.is_on() ? kMinutes : 0) {}

std::int64_t TimelineBook::minute_of(base::TimePoint at) const {
    return std::chrono::floor<std::chrono::minutes>(at - began_at_).count();
}

void TimelineBook::add(RequestTimeline request) {
    if (!is_on()) { return; }
    const auto kept = std::make_shared<const RequestTimeline>(std::move(request));
    const auto& why = kept->explanation.all;
    const std::int64_t number = std::max<std::int64_t>(0, minute_of(kept->ended_at));
    Minute& minute = minutes_[static_cast<std::size_t>(number) % kMinutes];
    if (minute.number != number) {
        minute = {};
        minute.number = number;
    }
    ++minute.requests;
    if (kept->has_targets()) { ++minute.with_targets; }
    if (why) {
        ++minute.causes[index_of(why->cause)];
        if (options_.misses_max > 0) {
            if (missed_.size() == options_.misses_max) { missed_.pop_front(); }
            missed_.push_back(kept);
        }
    }
    if (recent_.size() == options_.requests_max) { recent_.pop_front(); }
    recent_.push_back(kept);
}

std::shared_ptr<const RequestTimeline> TimelineBook::find_in(const Kept& kept, std::string_view id) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number, 16);
    const bool is_number = error == std::errc() && end == id.data() + id.size() && id.size() == 16;
    const auto is_meant = [&](const std::shared_ptr<const RequestTimeline>& request) {
        if (request->request_id == id || request->answer_id == id) { return true; }
        return is_number && std::any_of(request->sequences.begin(), request->sequences.end(),
                                        [&](const auto& sequence) { return sequence->id == number; });
    };
    const auto at = std::find_if(kept.rbegin(), kept.rend(), is_meant);
    return at == kept.rend() ? nullptr : *at;
}

std::shared_ptr<const RequestTimeline> TimelineBook::find(std::string_view id) const {
    if (id.empty()) { return nullptr; }
    const auto recent = find_in(recent_, id);
    return recent ? recent : find_in(missed_, id);
}

MissSummary TimelineBook::summary(base::Duration window) const {
    MissSummary summary;
    summary.window = window;
    const base::TimePoint now = clock_.now();
    const base::TimePoint since = now - window;
    const std::int64_t first = minute_of(since);
    for (const Minute& minute : minutes_) {
        if (minute.number < 0 || minute.number < first || minute.number > minute_of(now)) { continue; }
        summary.requests += minute.requests;
        summary.with_targets += minute.with_targets;
        for (std::size_t i = 0; i < kCauses; ++i) {
            summary.causes[i] += minute.causes[i];
            if (i != index_of(Cause::client)) { summary.missed += minute.causes[i]; }
        }
    }
    std::map<std::pair<std::uint64_t, Cause>, MissSummary::OfWorker> by_worker;
    for (auto one = missed_.rbegin(); one != missed_.rend(); ++one) {
        const RequestTimeline& request = **one;
        if (minute_of(request.ended_at) < first) { continue; }
        const Miss& miss = *request.explanation.all;
        if (miss.cause != Cause::client && summary.latest.size() < MissSummary::kExamples) {
            summary.latest.push_back(request.request_id);
        }
        if (miss.worker == 0) { continue; }
        MissSummary::OfWorker& of = by_worker[{miss.worker, miss.cause}];
        if (of.count++ == 0) { of = {miss.worker, miss.cause, 1, request.request_id}; }
    }
    for (auto& [key, of] : by_worker) {
        summary.workers.push_back(std::move(of));
    }
    std::stable_sort(summary.workers.begin(), summary.workers.end(),
                     [](const auto& a, const auto& b) { return a.count > b.count; });
    return summary;
}

}  // namespace gateway
