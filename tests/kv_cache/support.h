#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <vector>

#include "base/block_hash.h"

namespace kv_cache_test {

/// Whether `body` ends the process by a failed CHECK; tried in a child.
template <class Body>
bool stops_the_process(Body body) {
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGABRT, SIG_DFL);
        const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        dup2(nowhere, STDERR_FILENO);
        body();
        _exit(0);
    }
    int status = 0;
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/// Chain of `blocks` hashes of document `document`; documents share their first `shared` blocks.
inline std::vector<base::BlockHash> make_chain(std::uint32_t document, std::uint32_t blocks, std::uint32_t shared = 0) {
    std::vector<base::TokenId> tokens;
    for (std::uint32_t i = 0; i < blocks; ++i) {
        const std::uint32_t of = i < shared ? 0 : document;
        tokens.push_back(static_cast<base::TokenId>(of * 100000 + i));
    }
    return base::block_hash_chain({}, {.cache_scope = "", .numerics_id = 1, .adapter = "", .block_tokens = 1}, tokens);
}

}  // namespace kv_cache_test
