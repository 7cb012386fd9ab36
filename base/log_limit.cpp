#include "base/log_limit.h"

namespace base {

std::optional<std::uint64_t> LogLimit::admit(std::string_view name, TimePoint now) {
    const std::scoped_lock lock(mutex_);
    auto at = kinds_.find(name);
    if (at == kinds_.end()) {
        const std::string_view kept = kinds_.size() + 1 < options_.kinds_max ? name : std::string_view();
        at = kinds_.try_emplace(std::string(kept), Kind{.period_began = now}).first;
    }
    Kind& kind = at->second;
    if (now - kind.period_began >= options_.period) {
        kind.period_began = now;
        kind.messages = 0;
    }
    if (kind.messages == options_.messages_max) {
        ++kind.left_out;
        return std::nullopt;
    }
    ++kind.messages;
    return std::exchange(kind.left_out, 0);
}

LogLimit& LogLimit::shared() {
    static LogLimit limit;
    return limit;
}

std::string left_out_text(std::uint64_t count) {
    return count == 0 ? std::string() : " (" + std::to_string(count) + " more of this kind were left out)";
}

}  // namespace base
