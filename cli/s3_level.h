#pragma once

#include <functional>
#include <string>

#include "base/config.h"
#include "base/result.h"
#include "kv_transfer/tier/s3_tier.h"

namespace cli {

/// Section `engine.kv_s3` (docs/kv-memory.md).
struct S3LevelSettings {
    kv_transfer::S3Tier::Options options = {};  // without model, key, worker and credentials
    std::string credentials_file;               // empty: of the environment

    bool is_on() const { return !options.store.endpoint.empty(); }
    /// Reads them when it is called: the file, else AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN. Errors
    /// say what is missing or wrong, never what stands there.
    std::function<base::Result<kv_transfer::S3Credentials>()> credentials() const;
};

/// Error comes from config.finish(), later.
S3LevelSettings read_s3_level(base::Config& config);

}  // namespace cli
