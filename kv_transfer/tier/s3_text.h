#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kv_transfer/tier/s3_signature.h"

// What is read of a store's answers, and of a file with credentials. Pure; any bytes may come in.
namespace kv_transfer {

/// The `[default]` of a file in the form of AWS's tools (`aws_access_key_id = ...` and so on). Error:
/// invalid_argument, without a word of the text.
base::Result<S3Credentials> parse_s3_credentials(std::string_view text);

/// A page of ListObjectsV2.
struct S3ListPage {
    struct Object {
        std::string key;
        std::uint64_t bytes = 0;
        std::string modified;  // as it stands there: texts of one store are in the order of time; empty: not said
    };
    std::vector<Object> objects;
    std::optional<std::string> next;  // continuation token
};
/// Empty: that is none.
std::optional<S3ListPage> parse_s3_list(std::string_view xml);

/// The code of an answer that is no success ("NoSuchKey"), at most 60 bytes; empty where it has none.
std::string s3_error_code(std::string_view xml);

}  // namespace kv_transfer
