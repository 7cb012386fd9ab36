#include "bench/arithmetic_coder.h"

#include <algorithm>

namespace bench {
namespace {

constexpr std::uint32_t kRangeLow = 1u << 24;  // below it a byte is settled, but for a carry
constexpr int kBytesAtStart = 5;               // of a decoder's state; the first one is 0

class Encoder {
public:
    explicit Encoder(std::size_t symbols) { out_.reserve(symbols); }

    void put(std::uint32_t start, std::uint32_t frequency) {
        range_ >>= kv_transfer::kRansBits;
        low_ += std::uint64_t{start} * range_;
        range_ *= frequency;
        while (range_ < kRangeLow) {
            shift();
            range_ <<= 8;
        }
    }
    std::vector<std::byte> end() {
        for (int i = 0; i < kBytesAtStart; ++i) {
            shift();
        }
        return std::move(out_);
    }

private:
    /// The top byte leaves, once no carry can reach it any more.
    void shift() {
        if (low_ < 0xff000000u || low_ > 0xffffffffu) {
            const auto carry = static_cast<std::uint8_t>(low_ >> 32);
            out_.push_back(static_cast<std::byte>(held_ + carry));
            for (; ones_ > 0; --ones_) {
                out_.push_back(static_cast<std::byte>(0xff + carry));
            }
            held_ = static_cast<std::uint8_t>(low_ >> 24);
        } else {
            ++ones_;
        }
        low_ = (low_ & 0x00ffffffu) << 8;
    }

    std::vector<std::byte> out_;
    std::uint64_t low_ = 0;
    std::uint32_t range_ = 0xffffffffu;
    std::uint8_t held_ = 0;
    std::size_t ones_ = 0;  // bytes of 0xff behind the one that is held
};

}  // namespace

std::vector<std::byte> range_encode(const kv_transfer::RansTable& table, std::span<const std::uint8_t> symbols) {
    Encoder encoder(symbols.size());
    for (const std::uint8_t symbol : symbols) {
        encoder.put(table.start[symbol], table.frequency[symbol]);
    }
    return encoder.end();
}

void range_decode(const kv_transfer::RansTable& table, std::span<const std::byte> coded,
                  std::span<std::uint8_t> symbols) {
    std::size_t at = 0;
    const auto next = [&] { return at < coded.size() ? std::to_integer<std::uint32_t>(coded[at++]) : 0u; };
    std::uint32_t code = 0;
    for (int i = 0; i < kBytesAtStart; ++i) {
        code = code << 8 | next();
    }
    std::uint32_t range = 0xffffffffu;
    for (std::uint8_t& symbol : symbols) {
        range >>= kv_transfer::kRansBits;
        const std::uint32_t slot = std::min(code / range, kv_transfer::kRansSlots - 1);
        symbol = static_cast<std::uint8_t>(table.slots[slot] & (kv_transfer::kRansSymbols - 1));
        code -= table.start[symbol] * range;
        range *= table.frequency[symbol];
        while (range < kRangeLow) {
            code = code << 8 | next();
            range <<= 8;
        }
    }
}

}  // namespace bench
