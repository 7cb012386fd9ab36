#include "emulator_hopper.h"

#include <algorithm>
#include <map>

namespace emulator {
namespace {

struct TileCopy {
    unsigned target = 0;  // address in shared memory
    PoolMap map;
    int dim = 0;
    int token = 0;
    int tile = 0;
    int block = 0;
};

struct Barrier {
    unsigned arrivals = 0;  // that end a phase
    unsigned missing = 0;
    unsigned phase = 0;  // the present one
    std::int64_t bytes_announced = 0;
    std::vector<TileCopy> copies;
};

/// Of the block that runs.
std::map<unsigned, Barrier> barriers;
struct WarpgroupBarrier {
    unsigned arrived = 0;
    unsigned generation = 0;
};
WarpgroupBarrier warpgroup_barriers[2];

constexpr std::size_t kCopyBytes = 16 * 128;

char* shared_byte(unsigned address) {
    return shared_base() + address;
}

/// The address that the swizzle of 128 bytes makes of one.
unsigned swizzled(unsigned address) {
    return address ^ (address >> 3 & 0x70u);
}

void finish(const TileCopy& copy) {
    for (int row = 0; row < 16; ++row) {
        for (int element = 0; element < 64; ++element) {
            const bool inside = copy.block >= 0 && copy.block < copy.map.blocks &&
                                copy.token + row < copy.map.block_tokens && copy.dim + element < copy.map.head_dim &&
                                copy.tile >= 0 &&
                                static_cast<std::size_t>(copy.tile) < copy.map.block_bytes / copy.map.tile_bytes;
            std::uint16_t value = 0;
            if (inside) {
                const std::size_t at =
                    static_cast<std::size_t>(copy.block) * copy.map.block_bytes +
                    static_cast<std::size_t>(copy.tile) * copy.map.tile_bytes +
                    static_cast<std::size_t>((copy.token + row) * copy.map.head_dim + copy.dim + element) *
                        sizeof(value);
                std::memcpy(&value, copy.map.base + at, sizeof(value));
            }
            const unsigned to = swizzled(copy.target + static_cast<unsigned>(row * 128 + element * 2));
            std::memcpy(shared_byte(to), &value, sizeof(value));
        }
    }
}

/// Ends the phase when everybody has arrived and all bytes have been asked for.
void try_finish(Barrier& barrier) {
    const auto asked = static_cast<std::int64_t>(barrier.copies.size() * kCopyBytes);
    if (asked > barrier.bytes_announced && barrier.missing == 0) { stop("more bytes are copied than were announced"); }
    if (barrier.missing > 0 || asked != barrier.bytes_announced) { return; }
    for (const TileCopy& copy : barrier.copies) {
        finish(copy);
    }
    barrier.copies.clear();
    barrier.bytes_announced = 0;
    barrier.missing = barrier.arrivals;
    ++barrier.phase;
}

Barrier& barrier_at(unsigned address) {
    const auto found = barriers.find(address);
    if (found == barriers.end()) { stop("a barrier that was not made"); }
    return found->second;
}

void arrive(Barrier& barrier) {
    if (barrier.missing == 0) { stop("more threads arrive at a barrier than it expects"); }
    --barrier.missing;
    if (barrier.bytes_announced == 0) { try_finish(barrier); }
}

/// The 8 elements that begin at an address (a multiple of 16), swizzled.
void read_piece(unsigned address, float* values) {
    std::uint16_t bits[8];
    std::memcpy(bits, shared_byte(swizzled(address)), sizeof(bits));
    for (int i = 0; i < 8; ++i) {
        values[i] = same_bits<float>(static_cast<unsigned>(bits[i]) << 16);
    }
}

/// An operand as its descriptor says: bits 0-13 address, 16-29 leading and 32-45 stride offset (all / 16), 62-63
/// swizzle.
struct Operand {
    explicit Operand(std::uint64_t descriptor)
        : start((1u << 30) + (static_cast<unsigned>(descriptor & 0x3fff) << 4)),
          leading(static_cast<unsigned>(descriptor >> 16 & 0x3fff) << 4),
          stride(static_cast<unsigned>(descriptor >> 32 & 0x3fff) << 4) {
        if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) { stop("an operand without swizzle of 128 bytes"); }
    }
    /// K contiguous: 16 elements of row `row`.
    void read_row(int row, float* values) const {
        const unsigned at = start + static_cast<unsigned>(row / 8) * stride + static_cast<unsigned>(row % 8 * 128);
        read_piece(at, values);
        read_piece(at + 16, values + 8);
    }
    /// K in rows: 8 elements of row k from column `column` on.
    void read_columns(int k, int column, float* values) const {
        read_piece(start + static_cast<unsigned>(column / 64) * leading + static_cast<unsigned>(k / 8) * stride +
                       static_cast<unsigned>(k % 8 * 128 + column % 64 * 2),
                   values);
    }
    unsigned start, leading, stride;
};

constexpr int kColumnsMax = 128;

/// The part of a warp: 16 rows, all columns.
void compute(const WarpProduct* const (&lanes)[32], unsigned warp) {
    const WarpProduct& first = *lanes[0];
    const int columns = first.count * 2;
    float a[16][16];
    float b[16][kColumnsMax];
    for (int lane = 0; lane < 32; ++lane) {
        const WarpProduct& mine = *lanes[lane];
        if (mine.b_descriptor != first.b_descriptor || mine.a_descriptor != first.a_descriptor ||
            mine.add != first.add || mine.count != first.count) {
            stop("lanes of a warp mean different products");
        }
        if (mine.a == nullptr) { continue; }
        const int g = lane / 4;
        const int t = lane % 4;
        for (int part = 0; part < 4; ++part) {
            const int row = g + part % 2 * 8;
            const int k = 2 * t + part / 2 * 8;
            a[row][k] = same_bits<float>(mine.a[part] << 16);
            a[row][k + 1] = same_bits<float>(mine.a[part] & 0xffff0000u);
        }
    }
    if (first.a == nullptr) {
        const Operand operand(first.a_descriptor);
        for (int row = 0; row < 16; ++row) {
            operand.read_row(static_cast<int>(warp % 4) * 16 + row, a[row]);
        }
    }
    const Operand operand(first.b_descriptor);
    if (first.b_has_k_in_rows) {
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < columns; column += 8) {
                operand.read_columns(k, column, &b[k][column]);
            }
        }
    } else {
        for (int column = 0; column < columns; ++column) {
            float values[16];
            operand.read_row(column, values);
            for (int k = 0; k < 16; ++k) {
                b[k][column] = values[k];
            }
        }
    }
    for (int row = 0; row < 16; ++row) {
        float sums[kColumnsMax] = {};
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < columns; ++column) {
                sums[column] += a[row][k] * b[k][column];
            }
        }
        for (int column = 0; column < columns; ++column) {
            float& c = lanes[row % 8 * 4 + column % 8 / 2]->c[column / 8 * 4 + row / 8 * 2 + column % 2];
            c = (first.add ? c : 0.0f) + sums[column];
        }
    }
}

struct WaitOperands {
    Thread* thread;
    unsigned pending;
};

}  // namespace

void start_block_on_hopper() {
    barriers.clear();
    warpgroup_barriers[0] = {};
    warpgroup_barriers[1] = {};
}

void start_product(float* c, int count, const unsigned* a, std::uint64_t a_descriptor, std::uint64_t b_descriptor,
                   bool b_has_k_in_rows, bool add) {
    current->open_products.push_back({c, count, a, a_descriptor, b_descriptor, b_has_k_in_rows, add});
}

void wait_for_products(unsigned pending) {
    let_others_run();  // who thinks that the operands are free may show it
    const WaitOperands operands{current, pending};
    meet(700, ~0u, &operands, sizeof(operands), nullptr, 0, [](Meeting& meeting) {
        WaitOperands lanes[32];
        for (int lane = 0; lane < 32; ++lane) {
            std::memcpy(&lanes[lane], meeting.operands[lane], sizeof(WaitOperands));
        }
        auto& groups = lanes[0].thread->products;
        while (groups.size() > lanes[0].pending) {
            for (std::size_t i = 0; i < groups.front().size(); ++i) {
                const WarpProduct* products[32];
                for (int lane = 0; lane < 32; ++lane) {
                    products[lane] = &lanes[lane].thread->products.front().at(i);
                }
                compute(products, lanes[0].thread->warp);
            }
            for (const WaitOperands& lane : lanes) {
                lane.thread->products.pop_front();
            }
        }
    });
}

}  // namespace emulator

namespace engine::cuda {

using emulator::current;

cudaError_t make_kv_pool_map(const KvLayer& kv, std::int64_t blocks, KvPoolMap* map) {
    if (kv.head_dim % 64 != 0 || kv.block_tokens % 16 != 0 || kv.block_bytes % kv.tile_bytes != 0) {
        return cudaErrorInvalidValue;
    }
    const emulator::PoolMap pool{kv.base, kv.block_bytes, kv.tile_bytes, blocks, kv.head_dim, kv.block_tokens};
    std::memcpy(map->bytes, &pool, sizeof(pool));
    return cudaSuccess;
}

void barrier_init(unsigned barrier, unsigned arrivals) {
    if (barrier % 8 != 0) { emulator::stop("a misaligned barrier"); }
    emulator::barriers[barrier] = {
        .arrivals = arrivals, .missing = arrivals, .phase = 0, .bytes_announced = 0, .copies = {}};
}

void barrier_arrive(unsigned barrier) {
    emulator::arrive(emulator::barrier_at(barrier));
}

void barrier_expect(unsigned barrier, unsigned bytes) {
    emulator::Barrier& at = emulator::barrier_at(barrier);
    at.bytes_announced += bytes;
    emulator::arrive(at);
}

void barrier_wait(unsigned barrier, unsigned parity) {
    emulator::Barrier& at = emulator::barrier_at(barrier);
    const auto ready = [&at, parity] {
        emulator::try_finish(at);
        return at.phase % 2 != parity;
    };
    emulator::wait_until(ready);
}

void warpgroup_barrier(int warpgroup) {
    emulator::WarpgroupBarrier& barrier = emulator::warpgroup_barriers[warpgroup];
    if (current->warp / 4 != static_cast<unsigned>(warpgroup)) { emulator::stop("the barrier of another warpgroup"); }
    if (++barrier.arrived == 128) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    emulator::wait_until([&barrier, mine = barrier.generation] { return barrier.generation != mine; });
}

void copy_pool_tile(unsigned target, const KvPoolMap& map, int dim, int token, int tile, int block, unsigned barrier) {
    emulator::require_waited();
    if (target % 1024 != 0) { emulator::stop("a misaligned tile"); }
    emulator::TileCopy copy{.target = target, .map = {}, .dim = dim, .token = token, .tile = tile, .block = block};
    std::memcpy(&copy.map, map.bytes, sizeof(copy.map));
    std::memset(emulator::shared_byte(target), 0xff, emulator::kCopyBytes);  // on its way: not to be read
    emulator::barrier_at(barrier).copies.push_back(copy);
}

void products_commit() {
    current->products.push_back(std::move(current->open_products));
    current->open_products.clear();
}

void keep(const unsigned (&)[8][4]) {
    if (!current->products.empty() || !current->open_products.empty()) {
        emulator::stop("operands are given up while products are unfinished");
    }
}

}  // namespace engine::cuda
