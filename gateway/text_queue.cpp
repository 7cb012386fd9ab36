#include "gateway/text_queue.h"

#include <algorithm>
#include <utility>

namespace gateway {
namespace {

constexpr double kCostOfAny = 1024;       // bytes that a request costs besides its own
constexpr std::size_t kPayersMax = 4096;  // remembered that have nothing waiting

}  // namespace

void TextQueue::push(const std::string& payer, std::uint64_t bytes, std::function<void()> work) {
    const std::scoped_lock lock(mutex_);
    Payer& one = payers_[payer];
    const double start = std::max(now_, one.finish);
    one.finish = start + static_cast<double>(bytes) + kCostOfAny;
    (bytes >= options_.large_bytes ? one.large : one.small).push_back({start, std::move(work)});
}

void TextQueue::run() {
    while (run_one()) {}
}

TextQueue::Payers::iterator TextQueue::first(std::deque<Work> Payer::* queue) {
    auto best = payers_.end();
    for (auto at = payers_.begin(); at != payers_.end(); ++at) {
        const std::deque<Work>& works = at->second.*queue;
        if (works.empty()) { continue; }
        if (best == payers_.end() || works.front().start < (best->second.*queue).front().start) { best = at; }
    }
    return best;
}

bool TextQueue::run_one() {
    std::function<void()> work;
    bool is_large = false;
    {
        const std::scoped_lock lock(mutex_);
        const auto small = first(&Payer::small);
        const auto large = large_running_ < options_.large_at_once ? first(&Payer::large) : payers_.end();
        if (small == payers_.end() && large == payers_.end()) { return false; }
        is_large = small == payers_.end() ||
                   (large != payers_.end() && large->second.large.front().start < small->second.small.front().start);
        std::deque<Work>& works = is_large ? large->second.large : small->second.small;
        now_ = std::max(now_, works.front().start);
        work = std::move(works.front().run);
        works.pop_front();
        if (is_large) { ++large_running_; }
        forget();
    }
    work();
    if (!is_large) { return false; }
    const std::scoped_lock lock(mutex_);
    --large_running_;
    return true;
}

void TextQueue::forget() {
    std::erase_if(payers_, [&](const auto& one) {
        const bool waits = !one.second.small.empty() || !one.second.large.empty();
        return !waits && (one.second.finish <= now_ || payers_.size() > kPayersMax);
    });
    if (payers_.empty()) { now_ = 0; }
}

}  // namespace gateway
