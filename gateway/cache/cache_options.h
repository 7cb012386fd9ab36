#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "caching/exact/answer_book.h"
#include "caching/exact/common_answers.h"
#include "caching/semantic/semantic_cache.h"
#include "caching/store/shared_server.h"
#include "gateway/cache/in_context_options.h"
#include "gateway/request/models.h"

namespace gateway {

/// A Valkey or Redis server on which gateways share answers to equal requests, and purges.
struct SharedCacheOptions {
    std::string address;  // none: this gateway keeps its own
    caching::SharedServer::Options server = {};
    base::Duration patience = std::chrono::milliseconds(2);  // that a request waits for it
    base::Duration lease = std::chrono::seconds(2);          // without news from it nothing that is kept is served
    std::size_t queue_max = 4096;

    bool is_on() const { return !address.empty(); }
};

/// What tenants may have of each other's answers to equal requests: nothing, where it is off.
struct CommonCacheOptions {
    bool enabled = false;
    caching::CommonAnswers::Options answers = {};
    std::vector<std::string> tenants = {};  // that take part; none named: all
    bool blurs = true;                      // nobody is to tell such an answer from one of the model

    bool takes(std::string_view tenant) const {
        return tenants.empty() || std::find(tenants.begin(), tenants.end(), tenant) != tenants.end();
    }
};

/// Section `caching` of the configuration: answers in front of the model (docs/caching.md). Off, nothing of it is made.
struct CacheOptions {
    bool enabled = false;
    base::Duration ttl = std::chrono::hours(1);  // of equal requests' answers
    caching::AnswerBook::Options book = {};
    std::size_t answer_bytes_max = std::size_t{256} << 10;  // a longer one is not kept
    bool coalesce = true;                                   // equal requests in work share one run
    std::size_t waiters_max = 4096;                         // for runs of others, all together; more run by themselves
    bool allow_cut = false;                                 // keep answers that ended at their bound of tokens
    std::string store_file;                                 // SQLite; empty: in memory only
    std::size_t store_queue_max = 4096;                     // changes that wait to be written
    std::size_t tenant_writes_per_minute = 0;               // answers of one tenant's that are kept; 0: no bound
    SharedCacheOptions shared = {};
    CommonCacheOptions common = {};
    bool from_anywhere = false;  // /cache answers others than this machine

    // Answers to similar questions; `semantic.rules` hold for equal ones, too.
    caching::SemanticCacheOptions semantic = {};                   // semantic.semantic: whether at all
    base::Duration lookup_timeout = std::chrono::milliseconds(5);  // then the model answers
    std::size_t lookups_max = 256;                                 // that wait; more go to the model
    std::string encoder;              // served sentence encoder that compares questions; empty: none
    std::size_t encoder_kept = 4096;  // of its vectors, for questions that come again
    std::size_t shadows_max = 2;      // runs that only compare, at a time
    std::size_t shadow_busy_max = 8;  // with so many runs in work none begins

    InContextSettings in_context = {};  // a name that two models answer to

    bool similarity() const { return enabled && semantic.semantic; }
    /// Bad values are reported by Config::finish().
    static CacheOptions read(base::Config& config);
};

/// Whether the encoder that it names is served. Error: invalid_argument, with what to do.
base::Result<void> check_question_encoder(const CacheOptions& options, const std::vector<ServedModel>& models);

}  // namespace gateway
