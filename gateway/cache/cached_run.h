#pragma once

// The inside of CachedSource, for its two source files.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/cache/cached_source.h"

namespace gateway {

inline constexpr std::string_view kPathOfCache = "cache";  // of what no model computed for this request
inline constexpr std::string_view kCacheExact = "exact";
inline constexpr std::string_view kCacheSimilar = "semantic";
inline constexpr std::string_view kCacheCommon = "common";  // to an equal request of other tenants

inline std::int64_t seconds_since(std::int64_t unix_us, std::int64_t now_unix_us) {
    return std::max<std::int64_t>(now_unix_us - unix_us, 0) / 1'000'000;
}

/// What a run says in the model's place, and when. Times are since it began.
struct PlayedAnswer {
    caching::SavedText answer;
    std::vector<caching::SpokenPiece> pieces;  // the last one is all of the answer
    std::string kv;
    std::size_t next = 0;
    std::optional<base::TimePoint> first_at = {};
};

/// One sequence at the model, and who waits for it.
struct CachedSource::Run final : GenerationSink {
    enum class State { asking, looking, running, playing, ended };  // asking: the shared server

    Run(CachedSource& of, std::uint64_t of_number) : source(of), number(of_number) {}
    void on_placed() override { source.on_placed(*this); }
    void on_prompt(std::vector<TokenRecord>) override {}  // never asked for
    void on_piece(Piece piece, std::uint32_t count, std::string_view by) override {
        source.on_text(*this, piece.text, count, by);
    }
    void on_end(const GenerationEnd& end) override { source.on_end(*this, end); }

    CachedSource& source;
    const std::uint64_t number;
    State state = State::running;
    CacheAsk about = {};  // name and provenance: of the request that began it
    std::vector<base::RequestId> members = {};
    std::optional<base::RequestId> id = {};   // at the model, once it has told
    std::optional<base::TimePoint> due = {};  // set_due()
    base::TimePoint made_at{};
    base::TimePoint started_at{};
    caching::SharedMoment since = {};  // what was known of purges when it was made
    std::string text = {};
    std::uint32_t tokens = 0;
    std::string path = {};
    double relief = 0;  // for the load of its model's pool
    bool is_placed = false;
    bool has_text = false;
    bool is_dropped = false;
    bool is_shadow = false;
    bool is_purged = false;  // operators want such answers gone
    int promotions = 0;
    std::string told = {};  // by a run that failed: this one must begin so
    std::optional<caching::Probe> probe = {};
    std::optional<PlayedAnswer> play = {};          // none: the model answers
    std::vector<caching::SpokenPiece> spoken = {};  // by the model, where others may get it,
    std::string kv = {};                            // and how its KV came
};

}  // namespace gateway
