#include "cli/s3_level.h"

#include <chrono>
#include <cstdint>
#include <cstdlib>

#include "cli/private_file.h"

namespace cli {
namespace {

constexpr std::int64_t kMillisecondsMax = 600'000;
constexpr std::uint64_t kObjectBytes = std::uint64_t{64} << 30;
constexpr std::uint64_t kBufferBytes = std::uint64_t{256} << 20;
constexpr std::size_t kCredentialsBytesMax = 16'384;

base::Result<kv_transfer::S3Credentials> of_file(const std::string& path) {
    const std::string what = "engine.kv_s3.credentials_file: " + path;
    const auto text = read_private_file(path, kCredentialsBytesMax, what);
    if (!text) { return base::pass_on(text); }
    auto found = kv_transfer::parse_s3_credentials(*text);
    if (!found) { return base::pass_on(found, what); }
    return found;
}

base::Result<kv_transfer::S3Credentials> of_environment() {
    const auto value = [](const char* name) {
        const char* const text = std::getenv(name);
        return std::string(text == nullptr ? "" : text);
    };
    kv_transfer::S3Credentials found{value("AWS_ACCESS_KEY_ID"), value("AWS_SECRET_ACCESS_KEY"),
                                     value("AWS_SESSION_TOKEN")};
    if (!found.access_key_id.empty() && !found.secret_access_key.empty()) { return found; }
    return base::fail(base::ErrorCode::invalid_argument,
                      "engine.kv_s3 needs credentials: a file for engine.kv_s3.credentials_file with aws_access_key_id "
                      "and aws_secret_access_key in a section [default], or AWS_ACCESS_KEY_ID and "
                      "AWS_SECRET_ACCESS_KEY in the environment");
}

}  // namespace

std::function<base::Result<kv_transfer::S3Credentials>()> S3LevelSettings::credentials() const {
    if (credentials_file.empty()) { return &of_environment; }
    return [path = credentials_file] { return of_file(path); };
}

kv_transfer::TierCoding read_tier_coding(base::Config& config, const char* key) {
    using kv_transfer::TierCoding;
    const std::string codec = config.choice(key, "auto", {"raw", "exact", "auto"});
    if (codec == "raw") { return TierCoding::raw; }
    return codec == "exact" ? TierCoding::exact : TierCoding::automatic;
}

S3LevelSettings read_s3_level(base::Config& config) {
    S3LevelSettings settings;
    kv_transfer::S3Tier::Options& level = settings.options;
    kv_transfer::S3Client::Options& store = level.store;
    const auto bytes = [&config](const char* key, std::uint64_t fallback) {
        return static_cast<std::uint64_t>(config.integer(key, static_cast<std::int64_t>(fallback), 1));
    };
    const auto count = [&config](const char* key, std::uint32_t fallback, std::int64_t low, std::int64_t high) {
        return static_cast<std::uint32_t>(config.integer(key, fallback, low, high));
    };
    const auto milliseconds = [&config](const char* key, std::int64_t fallback) {
        return std::chrono::milliseconds(config.integer(key, fallback, 1, kMillisecondsMax));
    };
    store.endpoint = config.string("engine.kv_s3.endpoint", "");
    store.bucket = config.string("engine.kv_s3.bucket", "");
    store.region = config.string("engine.kv_s3.region", store.region);
    store.path_style = config.boolean("engine.kv_s3.path_style", store.path_style);
    store.ca_file = config.string("engine.kv_s3.ca_file", "");
    store.connections = count("engine.kv_s3.connections", store.connections, 1, 256);
    store.retries = count("engine.kv_s3.retries", store.retries, 0, 10);
    store.retry_wait = milliseconds("engine.kv_s3.retry_wait_ms", store.retry_wait.count());
    store.connect_timeout = milliseconds("engine.kv_s3.connect_timeout_ms", store.connect_timeout.count());
    store.timeout = milliseconds("engine.kv_s3.timeout_ms", store.timeout.count());
    level.load_timeout = milliseconds("engine.kv_s3.load_timeout_ms", 10'000);
    level.list_timeout = milliseconds("engine.kv_s3.list_timeout_ms", 10'000);
    level.pause = milliseconds("engine.kv_s3.pause_ms", 5000);
    level.prefix = config.string("engine.kv_s3.prefix", "");
    settings.coding = read_tier_coding(config, "engine.kv_s3.codec");
    level.bytes = bytes("engine.kv_s3.bytes", kObjectBytes);
    level.buffer_bytes = bytes("engine.kv_s3.buffer_bytes", kBufferBytes);
    settings.credentials_file = config.string("engine.kv_s3.credentials_file", "");
    return settings;
}

}  // namespace cli
