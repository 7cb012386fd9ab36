#include "worker/shared_prefix.h"

#include <algorithm>

namespace worker {

std::uint32_t shared_blocks(std::span<const base::BlockHash> one, std::span<const base::BlockHash> other) {
    std::size_t equal = 0;  // blocks that are
    std::size_t open = std::min(one.size(), other.size());
    if (open == 0 || one.front() != other.front()) { return 0; }
    while (equal < open) {
        const std::size_t middle = equal + (open - equal + 1) / 2;
        if (one[middle - 1] == other[middle - 1]) {
            equal = middle;
        } else {
            open = middle - 1;
        }
    }
    return static_cast<std::uint32_t>(equal);
}

std::uint32_t awaited_prefix(const SharingPrompt& newcomer, const SharingPrompt& running, std::uint32_t block_tokens,
                             std::uint32_t step_tokens) {
    if (newcomer.tokens < 2 || running.due_seconds > newcomer.due_seconds) { return 0; }
    if (running.due_seconds < 0 && newcomer.due_seconds >= 0) { return 0; }
    const std::uint32_t blocks =
        std::min(shared_blocks(newcomer.chain, running.chain), (newcomer.tokens - 1) / block_tokens);
    const std::uint32_t found_then = blocks * block_tokens;
    const std::uint32_t found_now = std::max(newcomer.computed_tokens, running.computed_tokens);
    if (found_then <= found_now) { return 0; }
    const std::uint32_t saved = found_then - found_now;
    const bool is_worth_it = 2 * std::uint64_t{saved} >= newcomer.tokens - found_now || saved >= step_tokens;
    return is_worth_it ? found_then : 0;
}

bool may_wait_for_prefix(base::Duration waited, double due_seconds, base::Duration wait_max) {
    if (waited >= wait_max) { return false; }
    return due_seconds == kNever || std::chrono::duration<double>(waited).count() < due_seconds;
}

}  // namespace worker
