#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace gateway {

/// Hands work for `payer`, about so many bytes of a body, to a text thread.
using PostText = std::function<void(const std::string& payer, std::uint64_t bytes, std::function<void()> work)>;

/// Work of the text threads in fair order: whoever has had least of them goes first, so that a payer with many large
/// prompts delays its own. Large work leaves one thread free: a thread cannot be taken from what it has begun.
/// Thread-safe. Bounded by who pushes (requests in work).
/// Source: start-time fair queueing (Goyal, Vin, Chen, SIGCOMM 1996).
class TextQueue {
public:
    struct Options {
        std::size_t large_at_once = 1;          // > 0; the threads that run this are one more
        std::uint64_t large_bytes = 32 * 1024;  // work of so many bytes is large
    };
    explicit TextQueue(Options options) : options_(options) {}

    /// For every push one thread calls run().
    void push(const std::string& payer, std::uint64_t bytes, std::function<void()> work);
    /// Does the next work, if there is some that may begin; after large work also what that kept waiting.
    void run();

private:
    struct Work {
        double start;  // virtual: bytes that a payer would have had by then
        std::function<void()> run;
    };
    struct Payer {
        double finish = 0;  // of what it pushed last
        std::deque<Work> small, large;
    };
    using Payers = std::map<std::string, Payer>;
    /// The payer whose first work in `queue` is due first; end: nobody has any.
    Payers::iterator first(std::deque<Work> Payer::* queue);
    bool run_one();
    /// Forgets who is no better known than a stranger.
    void forget();

    const Options options_;
    std::mutex mutex_;  // guards what follows
    Payers payers_;     // those that wait, and those that had more than others lately
    double now_ = 0;    // virtual
    std::size_t large_running_ = 0;
};

}  // namespace gateway
