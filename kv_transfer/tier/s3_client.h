#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "device/buffer.h"
#include "kv_transfer/tier/s3_signature.h"
#include "kv_transfer/tier/s3_text.h"

namespace kv_transfer {

/// A bucket of a store that speaks S3: whole objects are put, got and removed, and ListObjectsV2 says what there is.
/// libcurl carries the requests (HTTP/1.1), s3_signature.h signs them. Several run at once, over connections that are
/// kept; what fails for a moment is tried again; each ends in time. One thread at a time.
class S3Client {
public:
    struct Options {
        std::string endpoint;  // http(s)://HOST[:PORT]
        std::string bucket;
        std::string region = "us-east-1";
        bool path_style = true;  // HOST/BUCKET/KEY; else BUCKET.HOST/KEY
        /// Asked when the client is made, and again after the store refused: keys may have been changed meanwhile.
        std::function<base::Result<S3Credentials>()> credentials;
        std::string ca_file;                              // PEM, in place of the system's; empty: those
        std::chrono::milliseconds connect_timeout{1000};  // > 0
        std::chrono::milliseconds timeout{5000};          // of a request with its retries, > 0
        std::uint32_t retries = 2;                        // of a request
        std::chrono::milliseconds retry_wait{50};         // before the first, at least half of it; doubles
        std::uint32_t connections = 8;                    // requests at once, > 0
        std::size_t object_bytes = 0;                     // of each object that is got; 0: none is
        bool may_be_shorter = false;                      // that is the most that one has
        std::function<void()> on_retry = {};
    };
    enum class Verb : std::uint8_t { put, get, remove };
    struct Request {
        Verb verb = Verb::get;
        std::string key;                  // is_key(), CHECKed
        std::span<const std::byte> sent;  // put; until its end
    };
    /// The `index`-th of the requests has ended, with the object's bytes where one was got, which are
    /// the callee's until it returns. Errors: not_found; permission_denied; deadline_exceeded; data_loss (it has more
    /// or fewer bytes); resource_exhausted (the store is full); unavailable (everything else).
    using OnEnd = std::function<void(std::size_t index, base::Result<std::span<std::byte>> object)>;
    struct Listing {
        std::vector<S3ListPage::Object> objects;
        std::optional<base::Error> error;  // why there may be more
    };

    /// `arriving`: memory for what is got, `connections` times `object_bytes`. Error: invalid_argument, naming what is
    /// wrong with the endpoint, the bucket, or the region; of the credentials.
    static base::Result<std::unique_ptr<S3Client>> make(Options options, device::Buffer arriving);
    /// Letters, digits and -._~/ only: such keys are the same in addresses and signatures.
    static bool is_key(std::string_view text);
    ~S3Client();
    S3Client(const S3Client&) = delete;
    S3Client& operator=(const S3Client&) = delete;

    /// Does them, begun in order, at most `connections` at once; `on_end` is told of each that was begun. Begins no
    /// more, and tries none again, once `goes_on` says so.
    void run(std::span<const Request> requests, const OnEnd& on_end, const std::function<bool()>& goes_on);
    /// The first `most` objects whose keys begin with `prefix`, by key; begins no more pages after `until`.
    Listing list(const std::string& prefix, std::size_t most, std::chrono::steady_clock::time_point until);

private:
    using TimePoint = std::chrono::steady_clock::time_point;
    struct Transfer;
    struct Handles;
    struct Target {
        std::string base;    // scheme, host and port
        std::string host;    // of the header
        std::string folder;  // before the key in the path: "/BUCKET/", or "/"
    };

    S3Client(Options options, Target target, S3Credentials credentials, device::Buffer arriving);
    void read_credentials();
    void begin(Transfer& transfer);
    base::Result<void> result_of(const Transfer& transfer, int code) const;
    /// Whether the same request may succeed in a moment. `code` and `status`: how it ended.
    static bool is_passing(int code, long status);
    /// Lets what runs go on for a while; `ended` is called for each that has ended.
    void step(TimePoint until, const std::function<void(Transfer&, base::Result<void>, bool is_passing)>& ended);
    void run_all(std::size_t count, const std::function<void(std::size_t, Transfer&)>& prepare,
                 const std::function<void(std::size_t, Transfer&, base::Result<void>)>& on_end,
                 const std::function<bool()>& goes_on);

    const Options options_;
    const Target target_;
    S3Credentials credentials_;
    bool was_refused_ = false;
    device::Buffer arriving_;
    std::minstd_rand random_;  // of the waits
    std::unique_ptr<Handles> handles_;
};

}  // namespace kv_transfer
