#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/file_watch.h"
#include "gateway/http/gate.h"
#include "gateway/keys/api_key.h"
#include "gateway/keys/quota.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// The keys of a running gateway: who a request is from, and what it may still use. Reads the file again when it has
/// changed; a file that is wrong leaves what was read before, and says so in the log and in
/// sluice_gateway_keys_file_valid. I/O thread only.
class KeyKeeper {
public:
    struct Setup {
        std::string path;
        base::Duration look_interval = std::chrono::seconds(1);  // at the file
        const base::Clock& clock;                                // borrowed, as metrics
        base::Metrics& metrics;
    };
    /// Error: invalid_argument, with the words of read_key_list().
    static base::Result<std::unique_ptr<KeyKeeper>> open(Setup setup);

    /// Over keys that are in no file.
    static std::unique_ptr<KeyKeeper> of(std::vector<ApiKey> keys, const base::Clock& clock, base::Metrics& metrics);

    using Key = std::shared_ptr<const ApiKey>;
    /// Of `Authorization: Bearer KEY`, or `x-api-key: KEY`. Error: 401 (none, unknown, expired, two that differ),
    /// counted. Takes as long for every unknown key.
    ApiResult<Key> who(const RequestHead& head) const;
    /// The same for who only wants to know, also of what everybody may ask: null where there is none, and not counted.
    Key find(const RequestHead& head) const;
    /// Of the key with that public id; null where it is not there any more, or has expired.
    Key of_id(std::string_view id) const;
    /// Of all keys, also expired ones; another list each time that the keys are read.
    using Tenants = std::shared_ptr<const std::set<std::string>>;
    const Tenants& tenants() const { return tenants_; }
    /// For the door, before a body is read: the same error, but nothing for what everybody may ask: /live, /health,
    /// /ready, and what a browser asks first (OPTIONS).
    std::optional<HttpRefusal> refusal(const RequestHead& head) const;

    /// One more request that a model answers. Error: 429 with when to come again.
    ApiResult<std::shared_ptr<QuotaBook::Hold>> open_request(const ApiKey& key);
    /// What a refusal of the book is to a client, counted.
    ApiError quota_error(const QuotaBook::Refusal& refusal) const;

    /// Looks at the file when that is due; when the next look is.
    base::TimePoint tick(base::TimePoint now);

private:
    struct DigestHash {
        std::size_t operator()(const KeyDigest& digest) const;
    };
    struct Found {
        Key key;                   // also one that has expired
        std::string_view problem;  // the label of the metric; empty: none
    };
    Found look_for(const RequestHead& head) const;
    explicit KeyKeeper(Setup setup);
    void take(std::vector<ApiKey> keys);

    Setup setup_;
    std::unordered_map<KeyDigest, Key, DigestHash> keys_;
    Tenants tenants_;
    std::shared_ptr<QuotaBook> book_ = std::make_shared<QuotaBook>();
    FileWatch file_;
    base::TimePoint next_look_{};
};

}  // namespace gateway
