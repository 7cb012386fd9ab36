#pragma once

#include <functional>
#include <string>

#include "base/config.h"
#include "base/result.h"
#include "kv_transfer/tier/block_coder.h"
#include "kv_transfer/tier/s3_tier.h"

namespace cli {

/// Section `engine.kv_s3` (docs/kv-memory.md).
struct S3LevelSettings {
    kv_transfer::S3Tier::Options options = {};  // without model, key, worker, credentials and coding
    std::string credentials_file;               // empty: of the environment
    /// engine.kv_s3.codec; automatic: coded where the codec takes the model's KV, since a store's bytes are dear.
    kv_transfer::TierCoding coding = kv_transfer::TierCoding::automatic;

    bool is_on() const { return !options.store.endpoint.empty(); }
    /// Reads them when it is called: the file, else AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. Errors
    /// say what is missing or wrong, never what stands there.
    std::function<base::Result<kv_transfer::S3Credentials>()> credentials() const;
};

/// raw, exact or auto, which is the default. Error comes from config.finish(), later.
kv_transfer::TierCoding read_tier_coding(base::Config& config, const char* key);

/// Error comes from config.finish(), later.
S3LevelSettings read_s3_level(base::Config& config);

}  // namespace cli
