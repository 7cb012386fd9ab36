#include "bench/machine.h"

#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <thread>

#include "base/check.h"
#include "bench/machine_loops.h"
#include "engine/kernels/cpu/cpu_features.h"

namespace bench {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Now, by the wall clock or by this thread's processor time.
double now_seconds(bool processor_time) {
    timespec time{};
    clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::vector<int> allowed_processors() {
    cpu_set_t set;
    CPU_ZERO(&set);
    std::vector<int> processors;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        for (int i = 0; i < CPU_SETSIZE; ++i) {
            if (CPU_ISSET(i, &set)) { processors.push_back(i); }
        }
    }
    if (processors.empty()) { processors.push_back(0); }
    return processors;
}

void pin(int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

/// Anonymous memory in huge pages where the system gives them, touched by the thread that makes it.
class Floats {
public:
    explicit Floats(std::size_t bytes) : bytes_(bytes) {
        memory_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(memory_ != MAP_FAILED, bytes << " bytes to measure memory with");
        (void)madvise(memory_, bytes, MADV_HUGEPAGE);
        std::fill_n(data(), count(), 1.0f);
    }
    ~Floats() { munmap(memory_, bytes_); }
    Floats(const Floats&) = delete;
    Floats& operator=(const Floats&) = delete;
    float* data() const { return static_cast<float*>(memory_); }
    std::size_t count() const { return bytes_ / sizeof(float); }

private:
    std::size_t bytes_;
    void* memory_ = nullptr;
};

std::atomic<float> sink;  // keeps the loops from being left out

/// Work per second of `threads` pinned threads that each repeat `work` (after `prepare` on the same thread), started
/// together; one entry a sample.
template <class Prepare>
std::vector<double> sample(const MachineBenchOptions& options, const std::vector<int>& processors,
                           std::uint32_t threads, double work_per_call, const Prepare& prepare) {
    std::vector<double> rates(options.samples);
    std::barrier<> together{static_cast<std::ptrdiff_t>(threads)};
    std::vector<double> seconds(threads);
    std::atomic<std::size_t> calls_a_sample{1};
    std::vector<std::jthread> team;
    for (std::uint32_t t = 0; t < threads; ++t) {
        team.emplace_back([&, t] {
            pin(processors[t % processors.size()]);
            const std::function<void()> call = prepare();
            const double begin = now_seconds(options.processor_time);
            std::size_t calls = 0;
            while (calls < 2 || (now_seconds(options.processor_time) - begin) * 1000 < options.sample_ms) {
                call();
                ++calls;
            }
            if (t == 0) { calls_a_sample = calls; }
            for (std::uint32_t s = 0; s < options.samples; ++s) {
                together.arrive_and_wait();
                const double start = now_seconds(options.processor_time);
                for (std::size_t i = 0; i < calls_a_sample; ++i) {
                    call();
                }
                seconds[t] = now_seconds(options.processor_time) - start;
                together.arrive_and_wait();
                if (t == 0) {
                    const double longest = *std::max_element(seconds.begin(), seconds.end());
                    rates[s] = work_per_call * static_cast<double>(calls_a_sample) * threads / longest;
                }
            }
        });
    }
    team.clear();
    std::sort(rates.begin(), rates.end());
    return rates;
}

void record(MachineReport& report, std::string name, std::string level, std::uint32_t threads, std::string unit,
            const std::vector<double>& sorted) {
    report.figures.push_back({.name = std::move(name),
                              .level = std::move(level),
                              .threads = threads,
                              .unit = std::move(unit),
                              .median = sorted[sorted.size() / 2] / 1e9,
                              .best = sorted.back() / 1e9});
}

/// Median round trip of one cache line between two pinned threads, ns.
double round_trip_ns(const std::vector<int>& processors) {
    if (processors.size() < 2) { return 0; }
    constexpr int kRounds = 2000;
    constexpr int kSamples = 15;
    alignas(64) static std::atomic<int> ball;
    ball = 0;
    std::jthread other{[&] {
        pin(processors[1]);
        for (int i = 0; i < kRounds * kSamples; ++i) {
            while (ball.load(std::memory_order_acquire) != 2 * i + 1) {}
            ball.store(2 * i + 2, std::memory_order_release);
        }
    }};
    std::vector<double> samples;
    std::jthread one{[&] {
        pin(processors[0]);
        for (int s = 0; s < kSamples; ++s) {
            const auto begin = Clock::now();
            for (int i = s * kRounds; i < (s + 1) * kRounds; ++i) {
                ball.store(2 * i + 1, std::memory_order_release);
                while (ball.load(std::memory_order_acquire) != 2 * i + 2) {}
            }
            samples.push_back(seconds_since(begin) * 1e9 / kRounds);
        }
    }};
    one.join();
    other.join();
    std::sort(samples.begin(), samples.end());
    return samples[samples.size() / 2];
}

std::string processor_name() {
    std::ifstream file{"/proc/cpuinfo"};
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) {
            const std::size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
            return value == std::string::npos ? "unknown" : line.substr(value);
        }
    }
    return "unknown";
}

/// Size of processor 0's cache as the system tells it; sysconf may tell the whole socket's.
std::size_t cache_bytes(int level, std::size_t otherwise) {
    std::ifstream file{"/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(level) + "/size"};
    std::size_t size = 0;
    char unit = 0;
    if (!(file >> size >> unit) || size == 0) { return otherwise; }
    return unit == 'M' ? size << 20 : size << 10;
}

void measure_memory(const MachineBenchOptions& options, const std::vector<int>& processors, const MachineLoops& loops,
                    std::uint32_t threads, MachineReport& report) {
    constexpr std::size_t kStep = std::size_t{2} << 20;
    const std::size_t dram = std::min<std::size_t>(std::max<std::size_t>(report.l3_bytes * 4, 256u << 20), 256u << 20);
    struct Level {
        const char* name;
        std::size_t bytes;  // a thread
    };
    std::vector<Level> levels{{"DRAM", dram}};
    if (!options.quick) {
        levels.insert(levels.begin(), {"L3", report.l3_bytes / 2 / threads});
        levels.insert(levels.begin(), {"L2", report.l2_bytes / 2});
    }
    for (const Level& level : levels) {
        const std::size_t bytes = level.bytes >= kStep ? level.bytes / kStep * kStep : level.bytes / 512 * 512;
        if (bytes == 0) { continue; }
        record(report, "read", level.name, threads, "GB/s",
               sample(options, processors, threads, static_cast<double>(bytes), [&] {
                   auto a = std::make_shared<Floats>(bytes);
                   return [a, &loops] { sink.store(loops.read(a->data(), a->count()), std::memory_order_relaxed); };
               }));
        if (std::string_view(level.name) != "DRAM") { continue; }
        record(report, "triad", level.name, threads, "GB/s",
               sample(options, processors, threads, 3.0 * static_cast<double>(bytes), [&] {
                   auto a = std::make_shared<Floats>(bytes);
                   auto b = std::make_shared<Floats>(bytes);
                   auto c = std::make_shared<Floats>(bytes);
                   return [a, b, c, &loops] { loops.triad(a->data(), b->data(), c->data(), a->count()); };
               }));
    }
}

void measure_rate(const MachineBenchOptions& options, const std::vector<int>& processors, std::uint32_t threads,
                  const char* name, float (*loop)(std::size_t), double operations, MachineReport& report) {
    if (loop == nullptr) { return; }
    constexpr std::size_t kRounds = 100'000;
    record(report, name, "", threads, "Gop/s", sample(options, processors, threads, operations * kRounds, [loop] {
               return [loop] { sink.store(loop(kRounds), std::memory_order_relaxed); };
           }));
}

float generic_read(const float* a, std::size_t count) {
    float sums[16] = {};
    for (std::size_t i = 0; i < count; i += 16) {
        for (std::size_t j = 0; j < 16; ++j) {
            sums[j] += a[i + j];
        }
    }
    float sum = 0;
    for (const float s : sums) {
        sum += s;
    }
    return sum;
}

void generic_triad(float* a, const float* b, const float* c, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        a[i] = b[i] + 3.0f * c[i];
    }
}

boost::json::object json_of(const MachineReport& report) {
    boost::json::array figures;
    for (const MachineFigure& figure : report.figures) {
        boost::json::object one{{"name", figure.name},
                                {"threads", figure.threads},
                                {"unit", figure.unit},
                                {"median", figure.median},
                                {"best", figure.best}};
        if (!figure.level.empty()) { one["level"] = figure.level; }
        figures.push_back(std::move(one));
    }
    return {{"processor", report.processor},
            {"threads", report.threads},
            {"l2_bytes", report.l2_bytes},
            {"l3_bytes", report.l3_bytes},
            {"round_trip_ns_before", report.round_trip_ns_before},
            {"round_trip_ns_after", report.round_trip_ns_after},
            {"state_before", round_trip_state(report.round_trip_ns_before)},
            {"state_after", round_trip_state(report.round_trip_ns_after)},
            {"figures", std::move(figures)}};
}

void print(const MachineReport& report) {
    std::printf("%s, L2 %zu KiB, L3 %zu MiB\n", report.processor.c_str(), report.l2_bytes >> 10, report.l3_bytes >> 20);
    std::printf("round trip between two processors: %.0f ns (%s) before, %.0f ns (%s) after\n",
                report.round_trip_ns_before, round_trip_state(report.round_trip_ns_before), report.round_trip_ns_after,
                round_trip_state(report.round_trip_ns_after));
    std::printf("%-18s %-5s %8s %10s %10s\n", "what", "from", "threads", "median", "best");
    for (const MachineFigure& figure : report.figures) {
        std::printf("%-18s %-5s %8u %10.1f %10.1f %s\n", figure.name.c_str(), figure.level.c_str(), figure.threads,
                    figure.median, figure.best, figure.unit.c_str());
    }
}

}  // namespace

MachineLoops generic_loops() {
    MachineLoops loops;
    loops.read = generic_read;
    loops.triad = generic_triad;
    return loops;
}

const char* round_trip_state(double round_trip_ns) {
    constexpr double kNear = 250;  // between the 110-120 ns and 520 ns that were seen
    if (round_trip_ns <= 0) { return "-"; }
    return round_trip_ns < kNear ? "near" : "far";
}

double figure_of(const MachineReport& report, const std::string& name, const std::string& level,
                 std::uint32_t threads) {
    for (const MachineFigure& figure : report.figures) {
        if (figure.name == name && figure.level == level && figure.threads == threads) { return figure.median; }
    }
    return 0;
}

MachineReport measure_machine(const MachineBenchOptions& options) {
    const std::vector<int> processors = allowed_processors();
    MachineReport report;
    report.processor = processor_name();
    report.threads = options.threads == 0 ? static_cast<std::uint32_t>(processors.size()) : options.threads;
    report.l2_bytes = cache_bytes(2, 1u << 20);
    report.l3_bytes = cache_bytes(3, 32u << 20);
    report.round_trip_ns_before = round_trip_ns(processors);

    MachineLoops loops = generic_loops();
    MachineLoops avx2;
    MachineLoops avx512;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) { loops = avx2 = avx2_loops(); }
    if (__builtin_cpu_supports("avx512f")) {
        loops = avx512 = avx512_loops();
        if (!__builtin_cpu_supports("avx512bf16")) { avx512.bf16 = nullptr; }
        if (!__builtin_cpu_supports("avx512vnni")) { avx512.int8 = nullptr; }
    }
#endif
    const MachineLoops amx = engine::runs_amx() ? amx_loops() : MachineLoops{};
    std::vector<std::uint32_t> columns{1};
    if (report.threads > 1) { columns.push_back(report.threads); }
    for (const std::uint32_t threads : columns) {
        measure_memory(options, processors, loops, threads, report);
        measure_rate(options, processors, threads, "f32_fma_avx2", avx2.f32, avx2.f32_operations, report);
        measure_rate(options, processors, threads, "f32_fma_avx512", avx512.f32, avx512.f32_operations, report);
        measure_rate(options, processors, threads, "bf16_dot_avx512", avx512.bf16, avx512.bf16_operations, report);
        measure_rate(options, processors, threads, "bf16_tiles_amx", amx.bf16, amx.bf16_operations, report);
        measure_rate(options, processors, threads, "int8_dot_avx512", avx512.int8, avx512.int8_operations, report);
    }
    report.round_trip_ns_after = round_trip_ns(processors);
    return report;
}

int bench_machine_main(const MachineBenchOptions& options) {
    const MachineReport report = measure_machine(options);
    if (options.out_path == "-") {
        std::printf("%s\n", boost::json::serialize(json_of(report)).c_str());
        return 0;
    }
    print(report);
    if (options.out_path.empty()) { return 0; }
    std::ofstream file{options.out_path};
    file << boost::json::serialize(json_of(report)) << '\n';
    file.close();
    if (!file) {
        std::fprintf(stderr, "bench machine: cannot write %s\n", options.out_path.c_str());
        return 1;
    }
    return 0;
}

}  // namespace bench
