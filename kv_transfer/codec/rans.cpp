#include "kv_transfer/codec/rans.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace kv_transfer {
namespace {

// The reference: one symbol at a time, by division. Words are moved by memcpy, for a stream lies at any byte.

std::byte* encode_plain(const RansRows& rows, const std::uint8_t* symbols, std::byte* end) {
    for (std::size_t row = rows.rows; row-- > 0;) {
        std::uint32_t* states = rows.states + row % rows.groups * kRansLanes;
        for (std::uint32_t lane = kRansLanes; lane-- > 0;) {
            const std::uint8_t symbol = symbols[row * kRansLanes + lane];
            const std::uint32_t frequency = rows.table->frequency[symbol];
            std::uint32_t state = states[lane];
            if (state >= std::uint64_t{frequency} << (32 - kRansBits)) {
                const auto word = static_cast<std::uint16_t>(state);
                end -= sizeof word;
                std::memcpy(end, &word, sizeof word);
                state >>= 16;
            }
            states[lane] = (state / frequency << kRansBits) + state % frequency + rows.table->start[symbol];
        }
    }
    return end;
}

const std::byte* decode_plain(const RansRows& rows, const std::byte* words, const std::byte* words_end,
                              std::uint8_t* symbols) {
    for (std::size_t row = 0; row < rows.rows; ++row) {
        std::uint32_t* states = rows.states + row % rows.groups * kRansLanes;
        for (std::uint32_t lane = 0; lane < kRansLanes; ++lane) {
            std::uint32_t state = states[lane];
            const std::uint32_t slot = rows.table->slots[state & (kRansSlots - 1)];
            symbols[row * kRansLanes + lane] = static_cast<std::uint8_t>(slot & 31);
            state = (slot >> 17) * (state >> kRansBits) + (slot >> 5 & (kRansSlots - 1));
            if (state < kRansLow) {
                std::uint16_t word;
                if (static_cast<std::size_t>(words_end - words) < sizeof word) { return nullptr; }
                std::memcpy(&word, words, sizeof word);
                words += sizeof word;
                state = state << 16 | word;
            }
            states[lane] = state;
        }
    }
    return words;
}

constexpr RansKernels kPlain{encode_plain, decode_plain};

#if defined(__x86_64__)
bool runs(RansFamily family) {
    const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
    if (family == RansFamily::avx2) { return has_avx2 && rans_avx2() != nullptr; }
    return has_avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
           __builtin_cpu_supports("avx512vl") != 0 && __builtin_cpu_supports("avx512dq") != 0 &&
           __builtin_cpu_supports("avx512vbmi2") != 0 && __builtin_cpu_supports("popcnt") != 0 &&
           rans_avx512() != nullptr;
}
#else
bool runs(RansFamily) {
    return false;
}
#endif

std::size_t rows_of(std::span<const RansRun> runs) {
    std::size_t rows = 0;
    for (const RansRun& run : runs) {
        rows += run.rows;
    }
    return rows;
}

base::Result<void> damaged(const char* what) {
    return base::fail(base::ErrorCode::data_loss, std::string("rANS stream: ") + what);
}

}  // namespace

base::Result<void> make_rans_table(const RansFrequencies& frequencies, RansTable& out) {
    std::uint32_t sum = 0;
    for (const std::uint16_t frequency : frequencies) {
        if (frequency == 0) { return base::fail(base::ErrorCode::invalid_argument, "rANS: a frequency is 0"); }
        sum += frequency;
    }
    if (sum != kRansSlots) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "rANS: frequencies add up to " + std::to_string(sum) + ", not " + std::to_string(kRansSlots));
    }
    std::fill(std::begin(out.start), std::end(out.start), static_cast<std::uint16_t>(kRansSlots));
    std::uint32_t start = 0;
    for (std::uint32_t symbol = 0; symbol < kRansSymbols; ++symbol) {
        const std::uint32_t frequency = frequencies[symbol];
        out.start[symbol] = static_cast<std::uint16_t>(start);
        out.frequency[symbol] = static_cast<std::uint16_t>(frequency);
        out.packed[symbol] = frequency << 16 | start;
        // A quotient by it, cut, is right or 1 too small, however multiplication rounds: quotients have 20 bits.
        out.reciprocal[symbol] = static_cast<float>((1.0 - 0x1p-21) / frequency);
        for (std::uint32_t i = 0; i < frequency; ++i) {
            out.slots[start + i] = frequency << 17 | i << 5 | symbol;
        }
        start += frequency;
    }
    return {};
}

std::vector<RansFamily> rans_families() {
    std::vector<RansFamily> families{RansFamily::plain};
    for (const RansFamily family : {RansFamily::avx2, RansFamily::avx512}) {
        if (runs(family)) { families.push_back(family); }
    }
    return families;
}

const char* name_of(RansFamily family) {
    switch (family) {
        case RansFamily::plain:
            return "plain";
        case RansFamily::avx2:
            return "avx2";
        case RansFamily::avx512:
            return "avx512";
    }
    return "?";
}

const RansKernels& rans_kernels(RansFamily family) {
    switch (family) {
        case RansFamily::avx2:
            return *rans_avx2();
        case RansFamily::avx512:
            return *rans_avx512();
        default:
            return kPlain;
    }
}

const RansKernels& rans_kernels() {
    static const RansKernels& fastest = rans_kernels(rans_families().back());
    return fastest;
}

std::uint32_t rans_groups(std::size_t rows) {
    return rows >= 4096 ? 4 : rows >= 1024 ? 2 : 1;
}

std::size_t rans_bound(std::size_t rows, std::uint32_t groups) {
    return rows * kRansLanes * sizeof(std::uint16_t) + std::size_t{groups} * kRansLanes * sizeof(std::uint32_t);
}

RansEncoder::RansEncoder(const RansKernels& kernels, std::uint32_t groups, std::span<std::byte> out)
    : kernels_(kernels), groups_(groups), out_(out), begin_(out.data() + out.size()) {
    CHECK(groups == 1 || groups == 2 || groups == 4);
    states_.fill(kRansLow);
}

void RansEncoder::put(const RansRun& run, const std::uint8_t* symbols) {
    CHECK(static_cast<std::size_t>(begin_ - out_.data()) >= rans_bound(run.rows, groups_));
    begin_ = kernels_.encode({run.table, run.rows, groups_, states_.data()}, symbols, begin_);
}

std::span<const std::byte> RansEncoder::end() {
    const std::size_t state_bytes = rans_bound(0, groups_);
    CHECK(static_cast<std::size_t>(begin_ - out_.data()) >= state_bytes);
    begin_ -= state_bytes;
    std::memcpy(begin_, states_.data(), state_bytes);
    return {begin_, static_cast<std::size_t>(out_.data() + out_.size() - begin_)};
}

base::Result<void> RansDecoder::begin(std::span<const std::byte> stream, std::uint32_t groups) {
    CHECK(groups == 1 || groups == 2 || groups == 4);
    groups_ = groups;
    const std::size_t state_bytes = rans_bound(0, groups);
    if (stream.size() < state_bytes) { return damaged("shorter than its states"); }
    if ((stream.size() - state_bytes) % sizeof(std::uint16_t) != 0) { return damaged("half a word"); }
    std::memcpy(states_.data(), stream.data(), state_bytes);
    const auto used = std::span(states_).first(std::size_t{groups} * kRansLanes);
    if (std::any_of(used.begin(), used.end(), [](std::uint32_t state) { return state < kRansLow; })) {
        return damaged("a state that no encoder leaves");
    }
    words_ = stream.data() + state_bytes;
    words_end_ = stream.data() + stream.size();
    return {};
}

base::Result<void> RansDecoder::take(const RansRun& run, std::uint8_t* symbols) {
    words_ = kernels_.decode({run.table, run.rows, groups_, states_.data()}, words_, words_end_, symbols);
    if (words_ == nullptr) { return damaged("ends too early"); }
    return {};
}

base::Result<void> RansDecoder::end() const {
    if (words_ != words_end_) { return damaged("goes on behind its last symbol"); }
    const auto used = std::span(states_).first(std::size_t{groups_} * kRansLanes);
    if (std::any_of(used.begin(), used.end(), [](std::uint32_t state) { return state != kRansLow; })) {
        return damaged("does not end where encoding began");
    }
    return {};
}

std::span<const std::byte> rans_encode(const RansKernels& kernels, std::span<const RansRun> runs,
                                       std::span<const std::uint8_t> symbols, std::uint32_t groups,
                                       std::span<std::byte> out) {
    CHECK(symbols.size() == rows_of(runs) * kRansLanes);
    RansEncoder encoder(kernels, groups, out);
    const std::uint8_t* next = symbols.data() + symbols.size();
    for (std::size_t i = runs.size(); i-- > 0;) {
        next -= runs[i].rows * kRansLanes;
        encoder.put(runs[i], next);
    }
    return encoder.end();
}

base::Result<void> rans_decode(const RansKernels& kernels, std::span<const RansRun> runs,
                               std::span<const std::byte> stream, std::uint32_t groups,
                               std::span<std::uint8_t> symbols) {
    CHECK(symbols.size() == rows_of(runs) * kRansLanes);
    RansDecoder decoder(kernels);
    if (auto begun = decoder.begin(stream, groups); !begun) { return begun; }
    std::uint8_t* next = symbols.data();
    for (const RansRun& run : runs) {
        if (auto taken = decoder.take(run, next); !taken) { return taken; }
        next += run.rows * kRansLanes;
    }
    return decoder.end();
}

}  // namespace kv_transfer
