#include "engine/kernels/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <string>

#include "base/check.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace engine {
namespace {

/// Longer than the gap between two operators, shorter than what a sleeping thread costs to wake (about 50 us in a
/// guest).
constexpr std::chrono::microseconds kSpin{40};

void pause_processor() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

/// Spins until `done()` or the bound; whether it is done.
template <class Done>
bool spin(const Done& done) {
    for (int i = 0; i < 64; ++i) {
        if (done()) { return true; }
        pause_processor();
    }
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 32; ++i) {
            if (done()) { return true; }
            pause_processor();
        }
    } while (std::chrono::steady_clock::now() < end);
    return done();
}

void pin_this_thread(std::uint32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    // A processor that is not there (or not ours) leaves the thread where the system puts it: slower, never wrong.
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

constexpr std::uint64_t share_word(std::uint32_t job, std::uint32_t begin, std::uint32_t end) {
    return std::uint64_t{job} << 32 | std::uint64_t{begin} << 16 | end;
}

}  // namespace

ComputeMode::ComputeMode() {
#if defined(__x86_64__)
    former_ = _mm_getcsr();
    // Denormals are zero (bits 15 and 6): vdpbf16ps does so anyway, and they would make timing depend on data.
    // Exceptions masked (bits 7 to 12), round to nearest (bits 13 and 14 clear).
    const std::uint32_t mode = 0x8000u | 0x0040u | 0x1f80u;
    if ((former_ & ~0x3fu) != mode) { _mm_setcsr(mode); }
#else
    former_ = 0;
#endif
}

ComputeMode::~ComputeMode() {
#if defined(__x86_64__)
    if (_mm_getcsr() != former_) { _mm_setcsr(former_); }
#endif
}

ThreadPool::ThreadPool(Options options)
    : threads_(options.threads), cpus_(std::move(options.cpus)), shares_(options.threads) {
    CHECK(threads_ >= 1);
    for (std::uint32_t i = 1; i < threads_; ++i) {
        workers_.emplace_back([this, i] { work(i); });
    }
}

ThreadPool::~ThreadPool() {
    stopping_.store(true, std::memory_order_release);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
}

void ThreadPool::adopt_caller() {
    if (cpus_.empty() || caller_ == std::this_thread::get_id()) { return; }
    caller_ = std::this_thread::get_id();
    pin_this_thread(cpus_[0]);
}

void ThreadPool::run(std::uint32_t tasks, Call call, const void* context) {
    const ComputeMode mode;
    adopt_caller();
    if (threads_ == 1 || tasks <= 1) {
        for (std::uint32_t task = 0; task < tasks; ++task) {
            call(context, task);
        }
        return;
    }
    CHECK(tasks <= 0xffff, tasks << " tasks");
    call_ = call;
    context_ = context;
    unfinished_.store(tasks, std::memory_order_relaxed);
    const std::uint32_t job = job_.load(std::memory_order_relaxed) + 1;
    for (std::uint32_t i = 0; i < threads_; ++i) {
        const std::uint32_t begin = tasks * i / threads_;
        const std::uint32_t end = tasks * (i + 1) / threads_;
        shares_[i].word.store(share_word(job, begin, end), std::memory_order_release);
    }
    job_.store(job, std::memory_order_release);
    job_.notify_all();
    take_tasks(0, job);
    if (spin([&] { return unfinished_.load(std::memory_order_acquire) == 0; })) { return; }
    for (std::uint32_t left = unfinished_.load(std::memory_order_acquire); left != 0;
         left = unfinished_.load(std::memory_order_acquire)) {
        unfinished_.wait(left, std::memory_order_acquire);
    }
}

void ThreadPool::take_tasks(std::uint32_t thread, std::uint32_t job) {
    for (std::uint32_t i = 0; i < threads_; ++i) {
        std::atomic<std::uint64_t>& share = shares_[(thread + i) % threads_].word;
        std::uint64_t word = share.load(std::memory_order_acquire);
        while (word >> 32 == job) {
            const auto next = static_cast<std::uint32_t>(word >> 16 & 0xffff);
            const auto end = static_cast<std::uint32_t>(word & 0xffff);
            if (next == end) { break; }
            if (!share.compare_exchange_weak(word, share_word(job, next + 1, end), std::memory_order_acq_rel,
                                             std::memory_order_acquire)) {
                continue;
            }
            call_(context_, next);  // the job cannot end, nor the next begin, while a claimed task is not done
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) { unfinished_.notify_one(); }
            word = share.load(std::memory_order_acquire);
        }
    }
}

void ThreadPool::work(std::uint32_t thread) {
    const ComputeMode mode;
    pthread_setname_np(pthread_self(), ("compute-" + std::to_string(thread)).c_str());
    if (!cpus_.empty()) { pin_this_thread(cpus_[thread % cpus_.size()]); }
    std::uint32_t seen = 0;
    while (true) {
        std::uint32_t job = seen;
        const auto changed = [&] {
            job = job_.load(std::memory_order_acquire);
            return job != seen;
        };
        if (!spin(changed)) {
            job_.wait(seen, std::memory_order_acquire);
            continue;
        }
        if (stopping_.load(std::memory_order_acquire)) { return; }
        take_tasks(thread, job);
        seen = job;
    }
}

}  // namespace engine
