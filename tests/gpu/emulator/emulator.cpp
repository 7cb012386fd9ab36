#include "emulator.h"

#include "streams.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <random>

// From a stack to another: the registers that a function must keep, then the stack pointer (x86-64, System V).
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.globl emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace emulator {

Thread* current = nullptr;
uint3 block_index;
dim3 grid_size;
dim3 block_size;

namespace {

constexpr std::size_t kSharedBytes = 227 * 1024;  // of a block on Hopper
constexpr std::size_t kStackBytes = 64 * 1024;
/// Meetings of one warp that can be open together: lanes that went different ways.
constexpr unsigned kMeetings = 4;

alignas(1024) unsigned char shared_memory[kSharedBytes];
std::vector<char*> stacks;
std::vector<Thread> threads;
std::vector<Meeting> meetings;  // [warps][kMeetings]
void* scheduler_stack = nullptr;
std::function<void()>* running = nullptr;
unsigned barriers = 0;  // passed so far
unsigned at_barrier = 0;
unsigned turns = 0;  // of all warps of the block, so far
unsigned turn_waiters = 0;
unsigned alive = 0;

/// 0: warps in ascending order, 1: descending, 2: random. A race shows as a difference between them.
int warp_order() {
    static const int order = [] {
        const char* text = std::getenv("EMULATOR_WARP_ORDER");
        return text == nullptr ? 0 : std::atoi(text);
    }();
    return order;
}

void yield() {
    Thread* thread = current;
    emulator_switch(&thread->stack_pointer, scheduler_stack);
    current = thread;
}

void thread_main() {
    (*running)();
    require_waited();
    current->wait = Wait::finished;
    --alive;
    yield();
    std::abort();
}

bool can_run(const Thread& thread) {
    switch (thread.wait) {
        case Wait::none:
            return true;
        case Wait::warp:
            return thread.meeting->done;
        case Wait::block:
            return thread.barrier != barriers;
        case Wait::condition:
            return thread.condition();
        case Wait::turn:
            return thread.turn != turns;
        case Wait::finished:
            return false;
    }
    return false;
}

/// Runs the warp until each of its lanes waits or has finished. Whether any lane ran.
bool run_warp(unsigned warp) {
    bool any = false;
    for (bool again = true; again;) {
        again = false;
        for (std::size_t i = warp * 32; i < std::min<std::size_t>(warp * 32 + 32, threads.size()); ++i) {
            if (!can_run(threads[i])) { continue; }
            threads[i].wait = Wait::none;
            current = &threads[i];
            emulator_switch(&scheduler_stack, threads[i].stack_pointer);
            any = again = true;
        }
        if (alive > 0 && at_barrier == alive) {  // a thread that finished was the last one missing
            at_barrier = 0;
            ++barriers;
            any = true;
        }
    }
    return any;
}

void start_threads(unsigned count) {
    while (stacks.size() < count) {
        stacks.push_back(static_cast<char*>(std::aligned_alloc(64, kStackBytes)));
    }
    threads.assign(count, Thread{});
    const unsigned warps = (count + 31) / 32;
    meetings.resize(std::size_t{warps} * kMeetings);
    for (Meeting& meeting : meetings) {
        meeting.arrived = 0;
        meeting.done = false;
    }
    for (unsigned i = 0; i < count; ++i) {
        threads[i].index = {i, 0, 0};
        threads[i].warp = i / 32;
        threads[i].lane = i % 32;
        void** top = reinterpret_cast<void**>(stacks[i] + kStackBytes);
        *--top = nullptr;  // thread_main never returns; this keeps its stack aligned
        *--top = reinterpret_cast<void*>(&thread_main);
        for (int saved = 0; saved < 6; ++saved) {
            *--top = nullptr;
        }
        threads[i].stack_pointer = top;
    }
    barriers = 0;
    at_barrier = 0;
    alive = count;
    start_block_on_hopper();
}

void run_block(unsigned count) {
    static std::mt19937 random(1);
    start_threads(count);
    std::vector<unsigned> order((count + 31) / 32);
    for (unsigned i = 0; i < order.size(); ++i) {
        order[i] = i;
    }
    if (warp_order() == 1) { std::reverse(order.begin(), order.end()); }
    while (alive > 0) {
        if (warp_order() == 2) { std::shuffle(order.begin(), order.end(), random); }
        bool any = false;
        for (const unsigned warp : order) {
            any = run_warp(warp) || any;
        }
        ++turns;
        if (!any && alive > 0 && turn_waiters == 0) { stop("threads wait for others that never come"); }
    }
}

void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, std::function<void()>& kernel) {
    if (shared_bytes > kSharedBytes) { stop("too much shared memory"); }
    const bool grid_ok = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y <= 65535 && grid.z <= 65535;
    if (!grid_ok || block.x == 0 || block.x > 1024) { stop("a grid that no device takes"); }
    grid_size = grid;
    block_size = block;
    running = &kernel;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                block_index = {x, y, z};
                std::memset(shared_memory, 0xff, shared_bytes);  // nothing may rely on what was there
                run_block(block.x);
            }
        }
    }
}

}  // namespace

void stop(const char* what) {
    std::fflush(stdout);
    std::fprintf(stderr, "emulator: %s (block %u %u %u)\n", what, block_index.x, block_index.y, block_index.z);
    std::abort();
}

void require_waited() {
    if (!current->has_waited) { stop("a thread has not waited for the kernel before"); }
}

unsigned char* dynamic_shared() {
    return shared_memory;
}

char* shared_base() {
    return reinterpret_cast<char*>(shared_memory) - (std::ptrdiff_t{1} << 30);  // static variables lie around it
}

void meet(int kind, unsigned mask, const void* operands, std::size_t operand_bytes, void* result,
          std::size_t result_bytes, void (*compute)(Meeting&)) {
    Thread& thread = *current;
    if ((mask >> thread.lane & 1u) == 0) { stop("a lane is not in its own mask"); }
    Meeting* const first = &meetings[std::size_t{thread.warp} * kMeetings];
    Meeting* const last = first + kMeetings;
    Meeting* meeting = std::find_if(
        first, last, [&](const Meeting& m) { return !m.done && m.arrived != 0 && m.kind == kind && m.mask == mask; });
    if (meeting == last) {
        meeting = std::find_if(first, last, [](const Meeting& m) { return !m.done && m.arrived == 0; });
        if (meeting == last) { stop("the lanes of a warp went too many ways"); }
        meeting->kind = kind;
        meeting->mask = mask;
    }
    if (operand_bytes > 0) { std::memcpy(meeting->operands[thread.lane], operands, operand_bytes); }
    meeting->arrived |= 1u << thread.lane;
    if (meeting->arrived == mask) {
        compute(*meeting);
        meeting->done = true;
        meeting->readers = mask;
    } else {
        thread.meeting = meeting;
        thread.wait = Wait::warp;
        yield();
    }
    if (result_bytes > 0) { std::memcpy(result, meeting->results[thread.lane], result_bytes); }
    meeting->readers &= ~(1u << thread.lane);
    if (meeting->readers == 0) {
        meeting->done = false;
        meeting->arrived = 0;
    }
}

void block_barrier() {
    if (++at_barrier == alive) {
        at_barrier = 0;
        ++barriers;
        return;
    }
    current->barrier = barriers;
    current->wait = Wait::block;
    yield();
}

void wait_until(std::function<bool()> condition) {
    if (condition()) { return; }
    current->condition = std::move(condition);
    current->wait = Wait::condition;
    yield();
}

void let_others_run() {
    current->turn = turns;
    current->wait = Wait::turn;
    ++turn_waiters;
    yield();
    --turn_waiters;
}

void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel) {
    put(stream, [=]() mutable { run_grid(grid, block, shared_bytes, kernel); });
}

}  // namespace emulator

using emulator::Meeting;

unsigned __ballot_sync(unsigned mask, bool predicate) {
    const int operand = predicate ? 1 : 0;
    unsigned result = 0;
    emulator::meet(300, mask, &operand, sizeof(operand), &result, sizeof(result), [](Meeting& meeting) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
            int vote = 0;
            std::memcpy(&vote, meeting.operands[lane], sizeof(vote));
            if ((meeting.mask >> lane & 1u) != 0 && vote != 0) { votes |= 1u << lane; }
        }
        for (auto& to : meeting.results) {
            std::memcpy(to, &votes, sizeof(votes));
        }
    });
    return result;
}

unsigned __match_any_sync(unsigned mask, unsigned value) {
    unsigned result = 0;
    emulator::meet(301, mask, &value, sizeof(value), &result, sizeof(result), [](Meeting& meeting) {
        for (unsigned lane = 0; lane < 32; ++lane) {
            unsigned peers = 0;
            for (unsigned other = 0; other < 32; ++other) {
                const bool there = (meeting.mask >> other & 1u) != 0;
                if (there && std::memcmp(meeting.operands[lane], meeting.operands[other], 4) == 0) {
                    peers |= 1u << other;
                }
            }
            std::memcpy(meeting.results[lane], &peers, sizeof(peers));
        }
    });
    return result;
}

namespace engine::cuda {
namespace {

float low_half(unsigned pair) {
    return emulator::same_bits<float>(pair << 16);
}
float high_half(unsigned pair) {
    return emulator::same_bits<float>(pair & 0xffff0000u);
}

/// Address of row `row` of matrix `matrix`, as the lane that stands for it gave it.
const char* matrix_row(const Meeting& meeting, int matrix, int row) {
    unsigned address = 0;
    std::memcpy(&address, meeting.operands[matrix * 8 + row], sizeof(address));
    return emulator::shared_base() + address;
}

struct MultiplyOperands {
    float c[4];
    unsigned a[4];
    unsigned b[2];
};

/// c + a * b, each lane's part to the lane.
template <int kDepth>
void add_product(Meeting& meeting, const MultiplyOperands (&operands)[32], const float (&a)[16][kDepth],
                 const float (&b)[kDepth][8]) {
    float sums[16][8] = {};
    for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < kDepth; ++k) {
            for (int j = 0; j < 8; ++j) {
                sums[i][j] += a[i][k] * b[k][j];
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4;
        const int t = lane % 4;
        const float* c = operands[lane].c;
        const float result[4] = {c[0] + sums[g][2 * t], c[1] + sums[g][2 * t + 1], c[2] + sums[g + 8][2 * t],
                                 c[3] + sums[g + 8][2 * t + 1]};
        std::memcpy(meeting.results[lane], result, sizeof(result));
    }
}

void multiply(Meeting& meeting) {
    MultiplyOperands operands[32];
    float a[16][16];
    float b[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        MultiplyOperands& mine = operands[lane];
        std::memcpy(&mine, meeting.operands[lane], sizeof(mine));
        const int g = lane / 4;
        const int t = lane % 4;
        for (int half = 0; half < 2; ++half) {
            const int k = 2 * t + 8 * half;
            a[g][k] = low_half(mine.a[2 * half]);
            a[g][k + 1] = high_half(mine.a[2 * half]);
            a[g + 8][k] = low_half(mine.a[2 * half + 1]);
            a[g + 8][k + 1] = high_half(mine.a[2 * half + 1]);
            b[k][g] = low_half(mine.b[half]);
            b[k + 1][g] = high_half(mine.b[half]);
        }
    }
    add_product(meeting, operands, a, b);
}

/// e4m3, by its definition.
float fp8_value(unsigned bits) {
    const int exponent = static_cast<int>(bits >> 3 & 15u);
    const int fraction = static_cast<int>(bits & 7u);
    if (exponent == 15 && fraction == 7) { return NAN; }
    const float magnitude =
        exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9) : std::ldexp(8.0f + fraction, exponent - 10);
    return (bits & 0x80u) != 0 ? -magnitude : magnitude;
}

void multiply_fp8(Meeting& meeting) {
    static const auto values = [] {
        std::array<float, 256> all{};
        for (unsigned bits = 0; bits < all.size(); ++bits) {
            all[bits] = fp8_value(bits);
        }
        return all;
    }();
    MultiplyOperands operands[32];
    float a[16][32];
    float b[32][8];
    for (int lane = 0; lane < 32; ++lane) {
        MultiplyOperands& mine = operands[lane];
        std::memcpy(&mine, meeting.operands[lane], sizeof(mine));
        const int g = lane / 4;
        const int t = lane % 4;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i) {
                const int k = 4 * t + i + 16 * half;
                a[g][k] = values[mine.a[2 * half] >> 8 * i & 0xffu];
                a[g + 8][k] = values[mine.a[2 * half + 1] >> 8 * i & 0xffu];
                b[k][g] = values[mine.b[half] >> 8 * i & 0xffu];
            }
        }
    }
    add_product(meeting, operands, a, b);
}

}  // namespace

void copy_async16(unsigned target, const void* source, bool valid) {
    emulator::require_waited();
    if (target % 16 != 0 || reinterpret_cast<std::uintptr_t>(source) % 16 != 0) {
        emulator::stop("a misaligned asynchronous copy");
    }
    char* to = emulator::shared_base() + target;
    std::memset(to, 0xff, 16);  // on its way: not to be read
    emulator::current->open_group.push_back({to, valid ? source : nullptr});
}

void copy_async_commit() {
    emulator::current->groups.push_back(std::move(emulator::current->open_group));
    emulator::current->open_group.clear();
}

void copy_async_wait_for(std::size_t pending) {
    auto& groups = emulator::current->groups;
    for (; groups.size() > pending; groups.pop_front()) {
        for (const emulator::AsyncCopy& copy : groups.front()) {
            if (copy.from != nullptr) {
                std::memcpy(copy.to, copy.from, 16);
            } else {
                std::memset(copy.to, 0, 16);
            }
        }
    }
}

void load_matrices(unsigned (&r)[4], unsigned address) {
    if (address % 16 != 0) { emulator::stop("a misaligned row of a matrix"); }
    emulator::meet(400, ~0u, &address, sizeof(address), r, sizeof(r), [](Meeting& meeting) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int matrix = 0; matrix < 4; ++matrix) {
                std::memcpy(meeting.results[lane] + 4 * matrix, matrix_row(meeting, matrix, lane / 4) + lane % 4 * 4,
                            4);
            }
        }
    });
}

void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    if (address % 16 != 0) { emulator::stop("a misaligned row of a matrix"); }
    emulator::meet(401, ~0u, &address, sizeof(address), r, sizeof(r), [](Meeting& meeting) {
        for (int lane = 0; lane < 32; ++lane) {
            for (int matrix = 0; matrix < 4; ++matrix) {
                for (int element = 0; element < 2; ++element) {
                    std::memcpy(meeting.results[lane] + 4 * matrix + 2 * element,
                                matrix_row(meeting, matrix, lane % 4 * 2 + element) + lane / 4 * 2, 2);
                }
            }
        }
    });
}

void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    MultiplyOperands operands{};
    std::memcpy(operands.c, c, sizeof(c));
    std::memcpy(operands.a, a, sizeof(a));
    operands.b[0] = b0;
    operands.b[1] = b1;
    emulator::meet(500, ~0u, &operands, sizeof(operands), c, sizeof(c), multiply);
}

void multiply_add_fp8(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    MultiplyOperands operands{};
    std::memcpy(operands.c, c, sizeof(c));
    std::memcpy(operands.a, a, sizeof(a));
    operands.b[0] = b0;
    operands.b[1] = b1;
    emulator::meet(501, ~0u, &operands, sizeof(operands), c, sizeof(c), multiply_fp8);
}

uint4 load_streaming(const void* source) {
    if (reinterpret_cast<std::uintptr_t>(source) % 16 != 0) { emulator::stop("a misaligned load"); }
    return *static_cast<const uint4*>(source);
}

}  // namespace engine::cuda
