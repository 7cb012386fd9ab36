#include "kv_transfer/tier/s3_tier.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "base/seal.h"
#include "kv_transfer/tier/host_tier.h"

namespace kv_transfer {

using base::BlockHash;
using base::ErrorCode;
using base::Result;

namespace {

constexpr std::string_view kKeyMark = "sluice kv s3 keys 1";
constexpr std::size_t kWorkAtOnce = 64;
constexpr std::size_t kRemovedAtOnce = 1000;
constexpr std::chrono::seconds kLastPuts{10};
constexpr std::chrono::seconds kClearMax{60};
constexpr const char* kCodecSetting = "engine.kv_s3.codec";
/// Of coded blocks: behind the layout in keys, and in what they are sealed under.
constexpr std::string_view kCodedMark = "/exact1";

std::string text_of(const BlockHash& hash) {
    return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

std::optional<BlockHash> hash_of(std::string_view text) {
    if (text.size() != 32) { return std::nullopt; }
    BlockHash hash;
    for (auto [part, into] : {std::pair{text.substr(0, 16), &hash.high}, std::pair{text.substr(16), &hash.low}}) {
        const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), *into, 16);
        if (error != std::errc() || end != part.data() + part.size()) { return std::nullopt; }
    }
    if (text_of(hash) != text) { return std::nullopt; }  // not as we write it
    return hash;
}

/// PREFIX v1/KEY/NUMERICS-LAYOUT/: another format, key, model or layout has other keys, and so is not even found.
std::string folder_of(const S3Tier::Options& options) {
    const base::Mac mark = base::make_mac(options.hash_key, kKeyMark, {});
    std::string key;
    for (std::size_t i = 0; i < 8; ++i) {
        key += fmt::format("{:02x}", std::to_integer<unsigned>(mark[i]));
    }
    std::string layout = options.layout;
    std::replace_if(
        layout.begin(), layout.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '-');
    return fmt::format("{}v{}/{}/{:016x}-{}/", options.prefix, S3Sealer::kFormat, key, options.numerics_id, layout);
}

const char* outcome_of(const Result<void>& result) {
    if (result) { return "complete"; }
    switch (result.error().code) {
        case ErrorCode::not_found:
            return "missing";
        case ErrorCode::permission_denied:
            return "refused";
        case ErrorCode::deadline_exceeded:
            return "late";
        case ErrorCode::data_loss:
            return "damaged";
        default:
            return "failed";
    }
}

/// Whether it says something of the store, and not of one object alone.
bool is_of_store(const base::Error& error) {
    return error.code != ErrorCode::not_found && error.code != ErrorCode::data_loss;
}

}  // namespace

struct S3Tier::Instruments {
    Instruments(base::Metrics& metrics, const std::string& worker)
        : retries(metrics.counter("sluice_kv_s3_retries_total", "Requests to the S3 level that were tried again")),
          waiting(metrics.gauge("sluice_kv_s3_waiting_blocks", "Blocks of KV that wait to be sent to the S3 level",
                                {{"worker", worker}})) {
        for (const char* operation : {"put", "get", "delete", "list"}) {
            for (const char* outcome : {"complete", "missing", "refused", "late", "damaged", "failed", "skipped"}) {
                requests[{operation, outcome}] =
                    &metrics.counter("sluice_kv_s3_requests_total", "Requests to the S3 level, by how they ended",
                                     {{"operation", operation}, {"outcome", outcome}});
            }
        }
        waiting.Set(0);
    }
    std::map<std::pair<std::string_view, std::string_view>, prometheus::Counter*> requests;
    prometheus::Counter& retries;
    prometheus::Gauge& waiting;
};

Result<std::unique_ptr<S3Tier>> S3Tier::open(const kv_cache::KvStore& pool, Options options, const base::Clock& clock,
                                             base::Metrics& metrics) {
    std::unique_ptr<BlockCoder> coder;
    if (options.is_coded) {
        auto made = BlockCoder::make(pool.layout(), options.numerics_id, pool.device());
        if (!made) { return base::pass_on(made, kCodecSetting); }
        coder = std::move(*made);
        options.layout += kCodedMark;
    }
    const std::size_t block_bytes = coder ? coder->slot_bytes() : pool.layout().block_bytes();
    const S3Sealer sealer(options.hash_key, options.numerics_id, options.layout, block_bytes,
                          coder ? S3Sealer::Sizes::up_to : S3Sealer::Sizes::equal);
    const auto slots = tier_slots(options.bytes, sealer.object_bytes(), "engine.kv_s3.bytes");
    if (!slots) { return base::pass_on(slots); }
    const auto places = tier_slots(options.buffer_bytes, sealer.object_bytes(), "engine.kv_s3.buffer_bytes");
    if (!places) { return base::pass_on(places); }
    if (*places < kTierSaveBlocksMax) {
        return base::fail(
            ErrorCode::invalid_argument,
            fmt::format("engine.kv_s3.buffer_bytes is {} bytes: give at least {}, which {} blocks take",
                        options.buffer_bytes, sealer.object_bytes() * kTierSaveBlocksMax, kTierSaveBlocksMax));
    }
    if (!S3Client::is_key(options.prefix) || options.prefix.starts_with('/') ||
        options.prefix.size() > kPrefixBytesMax) {
        return base::fail(
            ErrorCode::invalid_argument,
            fmt::format("engine.kv_s3.prefix is more than letters, digits and -._~/, begins with /, or has more than "
                        "{} bytes",
                        kPrefixBytesMax));
    }
    auto instruments = std::make_unique<Instruments>(metrics, options.worker);
    S3Client::Options asking = options.store;
    asking.on_retry = [retries = &instruments->retries] { retries->Increment(); };
    asking.object_bytes = 0;
    auto puts = S3Client::make(asking, {});
    if (!puts) { return base::pass_on(puts, "engine.kv_s3"); }
    asking.object_bytes = sealer.object_bytes();
    asking.may_be_shorter = options.is_coded;
    auto arriving = pool.device().allocate_host(asking.object_bytes * asking.connections);
    if (!arriving) { return base::pass_on(arriving, "engine.kv_s3.connections"); }
    auto loads = S3Client::make(asking, std::move(*arriving));
    if (!loads) { return base::pass_on(loads, "engine.kv_s3"); }
    auto buffer = pool.device().allocate_host(sealer.object_bytes() * *places);
    if (!buffer) { return base::pass_on(buffer, "engine.kv_s3.buffer_bytes"); }
    auto opened = pool.device().allocate_host(block_bytes);
    if (!opened) { return base::pass_on(opened, "engine.kv_s3"); }
    auto coded = pool.device().allocate_host(coder ? coder->coded_bytes_max() : 1);
    if (!coded) { return base::pass_on(coded, kCodecSetting); }
    std::unique_ptr<S3Tier> tier(new S3Tier(std::move(options), sealer, std::move(coder), *slots, std::move(*buffer),
                                            *places, clock, std::move(instruments)));
    tier->coded_ = std::move(*coded);
    tier->loads_ = std::move(*loads);
    tier->puts_ = std::move(*puts);
    tier->opened_ = std::move(*opened);
    tier->list();
    tier->thread_ = std::jthread([of = tier.get()](const std::stop_token& stop) { of->run(stop); });
    return tier;
}

S3Tier::S3Tier(Options options, S3Sealer sealer, std::unique_ptr<BlockCoder> coder, std::uint32_t slots,
               device::Buffer buffer, std::uint32_t places, const base::Clock& clock,
               std::unique_ptr<Instruments> instruments)
    : options_(std::move(options)),
      sealer_(sealer),
      coder_(std::move(coder)),
      folder_(folder_of(options_)),
      clock_(clock),
      instruments_(std::move(instruments)),
      blocks_(slots),
      buffer_(std::move(buffer)),
      place_used_(places) {
    for (std::uint32_t i = places; i > 0; --i) {
        free_.push_back(i - 1);
    }
}

S3Tier::~S3Tier() {
    {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, kLastPuts, [this] { return queue_.empty() && !works_; });
        queue_.clear();
    }
    ends_ = true;  // what runs ends in time
    thread_ = {};
}

std::string S3Tier::key_of(const Block& block) const {
    return folder_ + text_of(block.hash) + "-" + (block.parent ? text_of(*block.parent) : "first");
}

std::optional<S3Tier::Block> S3Tier::block_of(std::string_view key) const {
    if (!key.starts_with(folder_)) { return std::nullopt; }
    key.remove_prefix(folder_.size());
    const auto hash = hash_of(key.substr(0, 32));
    if (!hash || key.size() < 33 || key[32] != '-') { return std::nullopt; }
    if (key.substr(33) == "first") { return Block{*hash, std::nullopt}; }
    const auto parent = hash_of(key.substr(33));
    if (!parent) { return std::nullopt; }
    return Block{*hash, *parent};
}

void S3Tier::list() {
    const auto until = std::chrono::steady_clock::now() + options_.list_timeout;
    S3Client::Listing listing = loads_->list(folder_, blocks_.size(), until);
    const Result<void> result = listing.error ? Result<void>(tl::unexpected(*listing.error)) : Result<void>();
    note("list", result, loads_paused_until_);
    why_not_all_ = std::move(listing.error);
    std::stable_sort(listing.objects.begin(), listing.objects.end(),
                     [](const auto& left, const auto& right) { return left.modified < right.modified; });
    for (const S3ListPage::Object& object : listing.objects) {
        const auto block = block_of(object.key);
        const auto slot = static_cast<std::uint32_t>(found_.size());
        const bool is_ours = block && sealer_.may_have(object.bytes) && slot < blocks_.size();
        if (!is_ours || !slots_.emplace(block->hash, slot).second) { continue; }
        blocks_[slot] = *block;
        found_.push_back({slot, *block});
    }
}

std::span<std::byte> S3Tier::place(std::uint32_t index) {
    return {buffer_.data() + index * sealer_.object_bytes(), sealer_.object_bytes()};
}

Result<void> S3Tier::may_ask(const std::atomic<std::int64_t>& paused_until) const {
    if (clock_.now().time_since_epoch().count() >= paused_until) { return {}; }
    return base::fail(ErrorCode::unavailable, "the store failed lately and is left alone for a while");
}

void S3Tier::note(std::string_view operation, const Result<void>& result, std::atomic<std::int64_t>& paused_until) {
    instruments_->requests.at({operation, outcome_of(result)})->Increment();
    if (result || !is_of_store(result.error())) { return; }
    paused_until = (clock_.now() + options_.pause).time_since_epoch().count();
}

/// What the slots hold from now on; the objects of what they held are removed.
void S3Tier::name_slots(std::span<const TierPiece> pieces, std::span<const Block> blocks, std::vector<Work>& work) {
    std::size_t index = 0;
    for (const TierPiece& piece : pieces) {
        for (std::uint32_t i = 0; i < piece.slots.count; ++i, ++index) {
            const std::uint32_t slot = base::raw(piece.slots.first) + i;
            std::optional<Block>& held = blocks_.at(slot);
            // A block that was forgotten may have come back into another slot.
            const auto known = held ? slots_.find(held->hash) : slots_.end();
            if (known != slots_.end() && known->second == slot) {
                if (held->hash != blocks[index].hash) { work.push_back({std::nullopt, *held}); }
                slots_.erase(known);
            }
            held = blocks[index];
            slots_.insert_or_assign(held->hash, slot);
        }
    }
}

/// The block as an object at the beginning of `place`: its bytes.
Result<std::size_t> S3Tier::seal_into(kv_cache::KvAccess& pool, kv_cache::BlockId block, const BlockHash& hash,
                                      std::span<std::byte> place) {
    std::span<std::byte> object = place;
    if (coder_) {
        const std::span<std::byte> coded{coded_.data(), coded_.size()};
        const auto bytes = coder_->encode(pool, block, coded);
        if (!bytes) { return base::pass_on(bytes); }
        if (S3Sealer::object_bytes(*bytes) > place.size()) {
            return tier_does_not_fit(*bytes, S3Sealer::block_in(place).size(), kCodecSetting);
        }
        object = place.first(S3Sealer::object_bytes(*bytes));
        std::copy_n(coded.begin(), *bytes, S3Sealer::block_in(object).begin());
    } else if (auto copied = pool.save(std::array{kv_cache::BlockRun{block, 1}}, S3Sealer::block_in(object)); !copied) {
        return base::pass_on(copied);
    }
    sealer_.seal(object, hash);
    return object.size();
}

Result<void> S3Tier::save(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                          std::span<const BlockHash> hashes, std::optional<BlockHash> parent) {
    CHECK(hashes.size() <= kTierSaveBlocksMax, hashes.size() << " blocks");
    if (auto may = may_ask(puts_paused_until_); !may) { return may; }
    std::vector<std::uint32_t> places;
    {
        const std::scoped_lock lock(mutex_);
        if (free_.size() < hashes.size()) {
            return base::fail(ErrorCode::resource_exhausted,
                              fmt::format("{} of {} blocks have room in engine.kv_s3.buffer_bytes: the store is slower "
                                          "than what is computed",
                                          free_.size(), hashes.size()));
        }
        places.assign(free_.end() - static_cast<std::ptrdiff_t>(hashes.size()), free_.end());
        free_.resize(free_.size() - hashes.size());
    }
    std::vector<Block> blocks;
    for (const TierPiece& piece : pieces) {
        for (std::uint32_t i = 0; i < piece.blocks.count; ++i) {
            const std::size_t index = blocks.size();
            const base::BlockId block{base::raw(piece.blocks.first) + i};
            const auto sealed = seal_into(pool, block, hashes[index], place(places[index]));
            if (!sealed) {
                const std::scoped_lock lock(mutex_);
                free_.insert(free_.end(), places.begin(), places.end());
                return base::pass_on(sealed);
            }
            place_used_[places[index]] = *sealed;
            note_moved(*sealed);
            blocks.push_back({hashes[index], index == 0 ? parent : std::optional(hashes[index - 1])});
        }
    }
    CHECK(blocks.size() == hashes.size());
    std::vector<Work> work;
    name_slots(pieces, blocks, work);
    {
        const std::scoped_lock lock(mutex_);
        for (Work& each : work) {
            queue_.push_back(std::move(each));
        }
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            buffered_.insert_or_assign(blocks[i].hash, places[i]);
            queue_.push_back({places[i], blocks[i]});
        }
        instruments_->waiting.Set(static_cast<double>(buffered_.size()));
    }
    changed_.notify_all();
    return {};
}

Result<void> S3Tier::load_buffered(kv_cache::KvAccess& pool, std::span<const kv_cache::BlockId> blocks,
                                   std::span<const BlockHash> hashes, std::vector<bool>& is_there) {
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const std::scoped_lock lock(mutex_);  // its place is nobody else's while this has it
        const auto at = buffered_.find(hashes[i]);
        if (at == buffered_.end()) { continue; }
        if (auto opened = open_into(pool, object_in(at->second), hashes[i], blocks[i]); !opened) { return opened; }
        is_there[i] = true;
    }
    return {};
}

Result<void> S3Tier::open_into(kv_cache::KvAccess& pool, std::span<const std::byte> object, const BlockHash& hash,
                               kv_cache::BlockId block) {
    const kv_cache::BlockRun run{block, 1};
    const std::span<std::byte> there = coder_ ? std::span<std::byte>{} : pool.in_place(run);
    const std::span<std::byte> here = there.empty() ? std::span<std::byte>{opened_.data(), opened_.size()} : there;
    const auto opened = sealer_.open(object, hash, here);
    if (!opened) { return base::pass_on(opened); }
    note_moved(object.size());
    if (coder_) { return coder_->decode(pool, block, here.first(*opened)); }
    return there.empty() ? pool.restore(std::array{run}, here) : Result<void>();
}

Result<std::uint32_t> S3Tier::load(kv_cache::KvAccess& pool, std::span<const TierPiece> pieces,
                                   std::span<const BlockHash> hashes) {
    std::vector<kv_cache::BlockId> blocks;
    std::vector<std::uint32_t> slots;
    for (const TierPiece& piece : pieces) {
        for (std::uint32_t i = 0; i < piece.blocks.count; ++i) {
            blocks.push_back(base::BlockId{base::raw(piece.blocks.first) + i});
            slots.push_back(base::raw(piece.slots.first) + i);
        }
    }
    CHECK(blocks.size() == hashes.size());
    std::vector<bool> is_there(blocks.size());
    if (auto loaded = load_buffered(pool, blocks, hashes, is_there); !loaded) { return base::pass_on(loaded); }
    std::vector<S3Client::Request> requests;
    std::vector<std::size_t> wanted;
    std::optional<base::Error> failed;
    for (std::size_t i = 0; i < blocks.size() && !failed; ++i) {
        if (is_there[i]) { continue; }
        const std::optional<Block>& block = blocks_.at(slots[i]);
        if (!block || block->hash != hashes[i]) {
            failed = base::Error{ErrorCode::not_found, "a slot holds another block"};
        } else {
            wanted.push_back(i);
            requests.push_back({S3Client::Verb::get, key_of(*block), {}});
        }
    }
    const auto until = clock_.now() + options_.load_timeout;
    const auto ended = [&](std::size_t index, const Result<std::span<std::byte>>& object) {
        Result<void> result = object ? Result<void>() : Result<void>(tl::unexpected(object.error()));
        const std::size_t at = wanted[index];
        if (object) { result = open_into(pool, *object, hashes[at], blocks[at]); }
        note("get", result, loads_paused_until_);
        is_there[at] = result.has_value();
        if (!result && !failed) { failed = result.error(); }
    };
    const auto goes_on = [&] {
        if (!failed && !may_go_on()) {
            failed = base::Error{ErrorCode::cancelled, "nobody waits for the rest any more"};
        }
        if (!failed && clock_.now() >= until) {
            failed = base::Error{ErrorCode::deadline_exceeded, "a load takes longer than engine.kv_s3.load_timeout_ms"};
        }
        return !failed;
    };
    if (const auto may = may_ask(loads_paused_until_); may || requests.empty()) {
        loads_->run(requests, ended, goes_on);
    } else {
        failed = may.error();
    }
    const auto missing = std::find(is_there.begin(), is_there.end(), false);
    const auto came = static_cast<std::uint32_t>(missing - is_there.begin());
    if (missing == is_there.end()) { return came; }
    if (came == 0 && failed) { return tl::unexpected(*failed); }
    if (failed) {
        base::warn_limited("kv s3 load", "the store of KV: {} of {} blocks came: {}", came, blocks.size(),
                           base::log_safe(failed->message));
    }
    return came;
}

Result<void> S3Tier::clear() {
    {
        std::unique_lock lock(mutex_);
        for (const Work& each : queue_) {
            if (each.place) { free_.push_back(*each.place); }
        }
        queue_.clear();
        changed_.wait(lock, [this] { return !works_; });  // its requests end in time
        buffered_.clear();
        instruments_->waiting.Set(0);
    }
    std::fill(blocks_.begin(), blocks_.end(), std::nullopt);
    slots_.clear();
    constexpr std::string_view kSome = "what was to be forgotten may still lie in the store";
    // Everything that is there, page after page.
    const auto until = std::chrono::steady_clock::now() + kClearMax;
    while (true) {
        const S3Client::Listing listing = loads_->list(folder_, kRemovedAtOnce, until);
        const Result<void> listed = listing.error ? Result<void>(tl::unexpected(*listing.error)) : Result<void>();
        note("list", listed, loads_paused_until_);
        if (!listed) { return base::pass_on(listed, kSome); }
        if (listing.objects.empty()) { return {}; }
        std::vector<S3Client::Request> requests;
        for (const S3ListPage::Object& object : listing.objects) {
            if (!S3Client::is_key(object.key)) {
                return base::fail(ErrorCode::failed_precondition, fmt::format("{}: an object is none of ours", kSome));
            }
            requests.push_back({S3Client::Verb::remove, object.key, {}});
        }
        Result<void> all;
        const auto ended = [&](std::size_t, const Result<std::span<std::byte>>& gone) {
            const Result<void> result = gone ? Result<void>() : Result<void>(tl::unexpected(gone.error()));
            note("delete", result, loads_paused_until_);
            if (!result && result.error().code != ErrorCode::not_found) { all = result; }
        };
        loads_->run(requests, ended, [&] { return all.has_value(); });
        if (!all) { return base::pass_on(all, kSome); }
    }
}

void S3Tier::run(const std::stop_token& stop) {
    while (true) {
        std::vector<Work> work;
        {
            std::unique_lock lock(mutex_);
            works_ = false;
            changed_.notify_all();
            if (!changed_.wait(lock, stop, [this] { return !queue_.empty(); }) || stop.stop_requested()) { return; }
            // Each object once: what is asked at once is done in any order.
            const auto is_new = [&work](const Work& next) {
                return std::none_of(work.begin(), work.end(),
                                    [&](const Work& other) { return other.block.hash == next.block.hash; });
            };
            while (!queue_.empty() && work.size() < kWorkAtOnce && is_new(queue_.front())) {
                work.push_back(std::move(queue_.front()));
                queue_.pop_front();
            }
            works_ = true;
        }
        do_work(std::move(work));
    }
}

void S3Tier::do_work(std::vector<Work> work) {
    std::vector<S3Client::Request> requests;
    for (const Work& each : work) {
        if (each.place) {
            requests.push_back({S3Client::Verb::put, key_of(each.block), object_in(*each.place)});
        } else {
            requests.push_back({S3Client::Verb::remove, key_of(each.block), {}});
        }
    }
    std::vector<bool> is_begun(work.size());
    const auto goes_on = [&] { return !ends_ && may_ask(puts_paused_until_).has_value(); };
    if (goes_on()) {
        const auto ended = [&](std::size_t index, const Result<std::span<std::byte>>& object) {
            const Result<void> result = object ? Result<void>() : Result<void>(tl::unexpected(object.error()));
            note(work[index].place ? "put" : "delete", result, puts_paused_until_);
            is_begun[index] = true;
            end_work(work[index], result);
        };
        puts_->run(requests, ended, goes_on);
    }
    for (std::size_t i = 0; i < work.size(); ++i) {
        if (is_begun[i]) { continue; }
        instruments_->requests.at({work[i].place ? "put" : "delete", "skipped"})->Increment();
        end_work(work[i], base::fail(ErrorCode::unavailable, "it failed lately and is left alone for a while"));
    }
}

void S3Tier::end_work(const Work& work, const Result<void>& result) {
    if (work.place) {
        const std::scoped_lock lock(mutex_);
        const auto at = buffered_.find(work.block.hash);
        if (at != buffered_.end() && at->second == *work.place) { buffered_.erase(at); }
        free_.push_back(*work.place);
        instruments_->waiting.Set(static_cast<double>(buffered_.size()));
    }
    if (!result && result.error().code != ErrorCode::not_found) {
        base::warn_limited("kv s3", "the store of KV: {}", base::log_safe(result.error().message));
    }
}

}  // namespace kv_transfer
