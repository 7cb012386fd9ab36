#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "caching/exact/answer_book.h"

namespace caching {

/// A part of an answer as it came from the model.
struct SpokenPiece {
    std::uint32_t bytes = 0;   // of the answer, with it
    std::uint32_t tokens = 0;  // likewise
    base::Duration after{};    // since its run began
};

/// An answer that anybody may have, and how the model's latest run for it went.
struct CommonAnswer {
    SavedAnswer answer;  // without tenant, key and tags: nothing says whose it was; nothing of a prefix cache
    std::vector<SpokenPiece> pieces = {};  // at the most CommonAnswers::kPiecesMost
    std::string kv = {};                   // GenerationEnd::kv
};

/// Answers that so many tenants got from the model, each by a run of its own and all with the same words: from then on
/// anybody who asks the same may have them. Of what fewer tenants got, nothing but a keyed hash is kept, and it is
/// given to nobody. In memory only, in a bound of bytes of which a quarter is for those that wait; what was used
/// longest ago goes first, so those that wait push out none that anybody may have. Pure; not thread-safe.
class CommonAnswers {
public:
    static constexpr std::size_t kPiecesMost = 4096;

    struct Options {
        std::size_t tenants_least = 3;  // > 1
        std::size_t bytes_max = std::size_t{64} << 20;
        base::HashKey key{};  // of the hashes
    };
    struct Counts {
        std::size_t waiting = 0;  // for further tenants
        std::size_t common = 0;   // that anybody may have
        std::size_t bytes = 0;
    };
    explicit CommonAnswers(Options options) : options_(options) {}

    /// The model has answered for the tenant of `given`, whose own name of the request is the answer's key; `name`:
    /// what the request is called whoever asks. Other words than before, or after that answer's time: it begins anew
    /// with this tenant, and is nobody's until enough others agree. Answers with tags are of a tenant's documents, and
    /// are passed over.
    void see(const base::BlockHash& name, CommonAnswer given);
    /// Null: not so many tenants got one. Whatever its age; it counts as used. Valid until the next change.
    const CommonAnswer* find(const base::BlockHash& name);
    /// How many are meant, for any of the tenants that they came from; they are gone afterwards unless `dry_run`.
    std::size_t purge(const AnswerFilter& filter, bool dry_run);
    Counts counts() const { return {waiting_.entries.size(), common_.entries.size(), waiting_.bytes + common_.bytes}; }

private:
    struct Giver {
        std::string tenant;
        base::BlockHash key{};  // the tenant's name of the request
    };
    struct Entry {
        base::BlockHash name{};
        base::BlockHash words{};  // keyed hash of what was said
        CommonAnswer given;       // while it waits: without text and pieces
        std::vector<Giver> givers;
        bool is_common = false;
        std::size_t bytes = 0;
    };
    struct Shelf {
        std::list<Entry> entries;  // used last first
        std::size_t bytes = 0;
    };
    using Place = std::list<Entry>::iterator;
    base::BlockHash hash_of(const SavedText& text) const;
    Shelf& shelf_of(const Entry& entry) { return entry.is_common ? common_ : waiting_; }
    void measure(Entry& entry);
    void remove(Place entry);
    static bool has_giver(const Entry& entry, const std::string& tenant);

    Options options_;
    Shelf waiting_;
    Shelf common_;
    std::unordered_map<base::BlockHash, Place> by_name_;
};

}  // namespace caching
