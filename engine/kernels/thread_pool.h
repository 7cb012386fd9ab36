#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace engine {

/// While it lives, this thread computes as every compute thread does: round to nearest, denormals are zero. The
/// former mode comes back afterwards. Cheap (some 20 cycles).
class ComputeMode {
public:
    ComputeMode();
    ~ComputeMode();
    ComputeMode(const ComputeMode&) = delete;
    ComputeMode& operator=(const ComputeMode&) = delete;

private:
    std::uint32_t former_;
};

/// Fork and join for loops inside one operator. `threads - 1` threads of its own and the caller, which must be one
/// thread at a time.
///
/// Tasks are divided evenly and in order, so that a thread meets the same columns of a matrix in every step; whoever
/// has finished its share takes tasks that nobody has begun, so a thread that the system does not run holds nobody up
/// for longer than one task. Waiting threads spin for a bounded time, then sleep.
class ThreadPool {
public:
    struct Options {
        std::uint32_t threads = 1;        // >= 1, the caller's included
        std::vector<std::uint32_t> cpus;  // thread i runs on cpus[i % size]; empty: not pinned
    };
    explicit ThreadPool(Options options);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    std::uint32_t threads() const { return threads_; }

    /// Calls function(task) for each task in [0, tasks), tasks <= 65535; returns when all are done. All run in
    /// ComputeMode. `function` must not call parallel().
    template <class Function>
    void parallel(std::uint32_t tasks, const Function& function) {
        static_assert(std::is_invocable_v<const Function&, std::uint32_t>);
        run(
            tasks, [](const void* context, std::uint32_t task) { (*static_cast<const Function*>(context))(task); },
            &function);
    }

private:
    using Call = void (*)(const void* context, std::uint32_t task);
    /// Tasks of one thread that nobody has begun: job number, next and end in one word, so that they are claimed at
    /// once. A cache line each.
    struct alignas(64) Share {
        std::atomic<std::uint64_t> word{0};
    };

    void run(std::uint32_t tasks, Call call, const void* context);
    void work(std::uint32_t thread);
    void take_tasks(std::uint32_t thread, std::uint32_t job);
    void adopt_caller();

    std::uint32_t threads_;
    std::vector<std::uint32_t> cpus_;
    std::vector<Share> shares_;
    Call call_ = nullptr;  // written by run() before the shares are filled, read after a claim
    const void* context_ = nullptr;
    alignas(64) std::atomic<std::uint32_t> job_{0};         // number of the newest job
    alignas(64) std::atomic<std::uint32_t> unfinished_{0};  // tasks of it not yet done
    std::atomic<bool> stopping_{false};
    std::thread::id caller_;
    std::vector<std::jthread> workers_;  // last: they use all of the above
};

}  // namespace engine
