#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"
#include "base/result.h"
#include "gateway/request/text_port.h"

namespace gateway {

/// The tokens of texts that begin alike: of a chat's next turn only what is new is encoded. A text is cut behind its
/// special tokens, since nothing on one side of such a token changes the tokens on its other side; what stands before
/// the last cut is kept, by a hash of its bytes under a key that nobody knows. One model's. Thread-safe.
class TokenPrefixes {
public:
    struct Options {
        std::size_t tokens_max = 8 << 20;      // that are kept, of all texts together: 32 MiB; 0: none
        std::size_t text_bytes_min = 4 << 10;  // shorter texts are encoded as they are
        std::size_t entries_max = 4096;        // texts that are kept
        base::HashKey key = base::random_hash_key();
    };
    explicit TokenPrefixes(Options options) : options_(options) {}

    /// What TextPort::encode(text, add_special, true, text_starts) gives. `scope`: texts of other scopes are not looked
    /// at, so that nobody learns from the time what others have sent.
    base::Result<std::vector<base::TokenId>> encode(const TextPort& port, std::string_view text, bool add_special,
                                                    std::span<const std::size_t> text_starts, std::string_view scope);

    struct Counts {
        std::uint64_t texts = 0;         // that were long enough
        std::uint64_t hits = 0;          // of them, that began as an earlier one
        std::uint64_t tokens_saved = 0;  // that were not encoded again
        std::size_t tokens_kept = 0;
    };
    Counts counts() const;

private:
    using Tokens = std::vector<base::TokenId>;
    /// A special token in a text.
    struct Cut {
        std::size_t begin = 0;
        std::size_t end = 0;
        base::BlockHash name = {};  // of the text up to `end`
    };
    struct Entry {
        base::BlockHash name;
        std::shared_ptr<const Tokens> tokens;
    };
    std::vector<Cut> cuts_of(const TextPort& port, std::string_view text, std::span<const std::size_t> text_starts);
    void name_cuts(std::vector<Cut>& cuts, std::string_view text, bool add_special,
                   std::span<const std::size_t> text_starts, std::string_view scope) const;
    bool cuts_well(const TextPort& port, const std::string& special);
    bool prepends_only(const TextPort& port);
    std::shared_ptr<const Tokens> find(const base::BlockHash& name);
    void keep(const base::BlockHash& name, std::shared_ptr<const Tokens> tokens);

    const Options options_;
    mutable std::mutex mutex_;  // guards what follows
    std::list<Entry> entries_;  // the most recently used first
    std::map<base::BlockHash, std::list<Entry>::iterator> by_name_;
    std::map<std::string, bool> known_;       // special texts, and whether a text may be cut behind them
    std::optional<bool> prepends_only_ = {};  // what add_special does
    Counts counts_;
};

}  // namespace gateway
