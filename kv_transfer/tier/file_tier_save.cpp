// How blocks get into FileTier's files; the contract stands in file_tier.h.
#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "kv_transfer/tier/file_tier.h"

namespace kv_transfer {

using base::Result;

/// A save that has begun and not ended.
struct FileTier::Saving {
    TierSave what;
    std::vector<Part> parts;
    std::size_t begun = 0;     // parts
    std::size_t finished = 0;  // of them
    std::vector<std::uint32_t> crcs;
    std::vector<std::uint32_t> coded;  // bytes; 0: as it is
    Result<void> result;

    bool may_begin() const { return result && begun < parts.size(); }
    bool has_ended() const { return finished == begun && !may_begin(); }
};

FileTier::Saving FileTier::open_save(const TierSave& what) {
    Saving saving;
    saving.what = what;
    saving.parts = parts_of(what.pieces, kWriteBytes, codes());
    CHECK(what.hashes.size() ==
          (saving.parts.empty() ? 0 : saving.parts.back().first + saving.parts.back().blocks.count));
    saving.crcs.resize(what.hashes.size());
    saving.coded.resize(what.hashes.size());
    saving.result = forget(what.pieces);
    return saving;
}

/// The next part of `saving`, as the index-th on its way. The disk has it before its checksum is made.
Result<void> FileTier::begin_part(kv_cache::KvAccess& pool, Saving& saving, std::uint32_t index) {
    const Part& part = saving.parts[saving.begun];
    const std::uint64_t offset = std::uint64_t{part.slot} * slot_bytes_;
    if (part.is_coded) {
        std::size_t coded_bytes = 0;
        const auto bytes = code(pool, part, index, coded_bytes);
        if (!bytes) { return base::pass_on(bytes); }
        io_->begin_write(index, *bytes, offset);
        saving.coded[part.first] = static_cast<std::uint32_t>(coded_bytes);
        saving.crcs[part.first] = base::crc32c(coded_bytes > 0 ? bytes->first(coded_bytes) : *bytes);
        note_moved(bytes->size());
    } else {
        const auto place = place_of(pool, part, index);
        if (!place) { return base::pass_on(place); }
        if (!place->in_pool) {
            if (auto saved = pool.save(std::array{part.blocks}, place->bytes); !saved) { return saved; }
        }
        io_->begin_write(index, place->bytes, offset);
        for (std::uint32_t i = 0; i < part.blocks.count; ++i) {
            saving.crcs[part.first + i] = base::crc32c(place->bytes.subspan(i * block_bytes_, block_bytes_));
        }
        note_moved(place->bytes.size());
    }
    ++saving.begun;
    return {};
}

/// All parts have ended: the blocks get their names, in the file too, or there is the first error.
Result<void> FileTier::close_save(Saving& saving) {
    if (!saving.result) { return std::move(saving.result); }
    const TierSave& what = saving.what;
    for (const Part& part : saving.parts) {
        for (std::uint32_t i = 0; i < part.blocks.count; ++i) {
            const std::uint32_t at = part.first + i;
            records_[part.slot + i].block =
                TierRecord::Block{what.hashes[at], at == 0 ? what.parent : std::optional(what.hashes[at - 1]),
                                  saving.crcs[at], ++uses_, saving.coded[at]};
        }
    }
    for (const TierPiece& piece : what.pieces) {
        if (auto named = write_records(base::raw(piece.slots.first), piece.slots.count); !named) {
            if (auto taken_back = forget(what.pieces); !taken_back) { spdlog::debug("{}", taken_back.error().message); }
            return named;
        }
    }
    return {};
}

Result<void> FileTier::save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                            std::span<const base::BlockHash> hashes, std::optional<base::BlockHash> parent) {
    std::optional<TierSave> one = TierSave{pieces, hashes, parent};
    Result<void> result;
    save_in_turn(
        pool, [&one] { return std::exchange(one, std::nullopt); },
        [&result](Result<void> ended) { result = std::move(ended); });
    return result;
}

void FileTier::save_in_turn(kv_cache::KvAccess& pool, const std::function<std::optional<TierSave>()>& next,
                            const std::function<void(Result<void>)>& ended) {
    // The disk has depth() parts to write, of as many saves as it takes, until there are no more: the last ones of one
    // save are on their way with the first of the next.
    std::deque<Saving> savings;  // at most depth()
    std::uint64_t begun = 0;     // parts of all
    std::uint64_t finished = 0;
    const std::uint64_t depth = io_->depth();
    // Where it matters how quick the disk is and nobody knows, one save tells before the next.
    const auto may_add = [&] {
        return savings.empty() || (savings.size() < depth && (coding_ != TierCoding::automatic || rate_.value()));
    };
    while (true) {
        if (!savings.empty() && savings.front().has_ended()) {
            Result<void> result = close_save(savings.front());
            savings.pop_front();
            if (coding_ == TierCoding::automatic && !rate_.value() && result) { find_rate(); }
            ended(std::move(result));
            continue;
        }
        if (begun - finished < depth) {
            if ((savings.empty() || !savings.back().may_begin()) && may_add()) {
                if (const auto what = next()) {
                    savings.push_back(open_save(*what));
                    continue;
                }
            }
            if (!savings.empty() && savings.back().may_begin()) {
                savings.back().result = begin_part(pool, savings.back(), static_cast<std::uint32_t>(begun % depth));
                begun += savings.back().result ? 1 : 0;
                continue;
            }
        }
        if (savings.empty()) { return; }
        Saving& oldest = savings.front();
        if (const int error = io_->finish(static_cast<std::uint32_t>(finished % depth)); error != 0 && oldest.result) {
            oldest.result = tl::unexpected(file_error("write", folder_ / "blocks", error));
        }
        ++oldest.finished;
        ++finished;
    }
}

}  // namespace kv_transfer
