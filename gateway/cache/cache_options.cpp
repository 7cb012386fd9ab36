#include "gateway/cache/cache_options.h"

namespace gateway {
namespace {

constexpr const char* kNameLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

}  // namespace

CacheOptions CacheOptions::read(base::Config& config) {
    CacheOptions options;
    const auto count = [&](const char* key, std::size_t fallback, std::int64_t low, std::int64_t high) {
        return static_cast<std::size_t>(config.integer(key, static_cast<std::int64_t>(fallback), low, high));
    };
    const auto milliseconds = [&](const char* key, base::Duration fallback, std::int64_t low, std::int64_t high) {
        const auto number = std::chrono::duration_cast<std::chrono::milliseconds>(fallback).count();
        return std::chrono::milliseconds(config.integer(key, number, low, high));
    };
    options.enabled = config.boolean("caching.enabled", options.enabled);
    options.ttl = milliseconds("caching.ttl_ms", options.ttl, 1, std::int64_t{365} * 86'400'000);
    options.book.entries_max = count("caching.entries_max", options.book.entries_max, 1, 100'000'000);
    options.book.bytes_max = count("caching.bytes_max", options.book.bytes_max, 1 << 16, std::int64_t{1} << 40);
    options.book.tenant_share = config.number("caching.tenant_share", options.book.tenant_share, 0, 1);
    options.answer_bytes_max = count("caching.answer_bytes_max", options.answer_bytes_max, 1, 1 << 26);
    options.coalesce = config.boolean("caching.coalesce", options.coalesce);
    options.waiters_max = count("caching.waiters_max", options.waiters_max, 1, 1 << 20);
    options.allow_cut = config.boolean("caching.allow_cut", options.allow_cut);
    options.store_file = config.string("caching.store_file", options.store_file);
    options.store_queue_max = count("caching.store_queue_max", options.store_queue_max, 1, 1 << 20);
    options.from_anywhere = config.boolean("caching.from_anywhere", options.from_anywhere);
    options.tenant_writes_per_minute =
        count("caching.tenant_writes_per_minute", options.tenant_writes_per_minute, 0, 1'000'000'000);

    constexpr std::int64_t kMinuteMs = 60'000;
    SharedCacheOptions& shared = options.shared;
    shared.address = config.string("caching.shared.address", shared.address);
    shared.server.user = config.string("caching.shared.user", shared.server.user);
    shared.server.password_file = config.string("caching.shared.password_file", shared.server.password_file);
    shared.server.database = static_cast<std::uint32_t>(count("caching.shared.database", 0, 0, 65'535));
    shared.server.name = config.string("caching.shared.name", shared.server.name);
    shared.patience = milliseconds("caching.shared.patience_ms", shared.patience, 1, kMinuteMs);
    shared.lease = milliseconds("caching.shared.lease_ms", shared.lease, 50, kMinuteMs);
    shared.server.connect_timeout =
        milliseconds("caching.shared.connect_timeout_ms", shared.server.connect_timeout, 10, kMinuteMs);
    shared.server.answer_timeout =
        milliseconds("caching.shared.answer_timeout_ms", shared.server.answer_timeout, 10, kMinuteMs);
    shared.queue_max = count("caching.shared.queue_max", shared.queue_max, 1, 1 << 20);
    if (shared.is_on()) {
        if (const auto address = caching::ServerAddress::parse(shared.address)) {
            shared.server.address = *address;
        } else {
            config.problem("caching.shared.address", address.error().message);
        }
        if (!options.store_file.empty()) {
            config.problem("caching.store_file",
                           "cannot be had with caching.shared.address: what is purged while this gateway is down would "
                           "be back with the file; leave one of them out");
        }
    }
    if (shared.server.name.empty() || shared.server.name.find_first_not_of(kNameLetters) != std::string::npos) {
        config.problem("caching.shared.name", "is one or more of the letters A-Z a-z 0-9 . _ -");
    }

    CommonCacheOptions& common = options.common;
    common.enabled = config.boolean("caching.common.enabled", common.enabled);
    common.answers.tenants_least = count("caching.common.tenants_least", common.answers.tenants_least, 2, 64);
    common.answers.bytes_max =
        count("caching.common.bytes_max", common.answers.bytes_max, 1 << 16, std::int64_t{1} << 40);
    common.tenants = config.strings("caching.common.tenants", common.tenants);
    common.blurs = config.boolean("caching.common.blur", common.blurs);
    if (!common.tenants.empty() && common.tenants.size() < common.answers.tenants_least) {
        config.problem("caching.common.tenants",
                       "names fewer tenants than caching.common.tenants_least: nothing could ever be shared; name "
                       "more, or none for all");
    }

    options.semantic.semantic = false;
    options.semantic.entries_max = 100'000;
    options.semantic.bytes_max = std::size_t{256} << 20;
    caching::read_semantic_options(config, options.semantic);
    options.lookup_timeout = milliseconds("caching.semantic.lookup_timeout_ms", options.lookup_timeout, 1, 60'000);
    options.lookups_max = count("caching.semantic.lookups_max", options.lookups_max, 1, 1 << 16);
    options.encoder = config.string("caching.semantic.encoder", options.encoder);
    options.encoder_kept = count("caching.semantic.encoder_kept", options.encoder_kept, 0, 1 << 22);
    options.shadows_max = count("caching.semantic.shadows_max", options.shadows_max, 0, 1024);
    options.shadow_busy_max = count("caching.semantic.shadow_busy_max", options.shadow_busy_max, 0, 1 << 20);
    options.in_context = InContextSettings::read(config);
    return options;
}

base::Result<void> check_question_encoder(const CacheOptions& options, const std::vector<ServedModel>& models) {
    if (!options.similarity() || options.encoder.empty()) { return {}; }
    std::string encoders;
    for (const ServedModel& model : models) {
        if (model.kind != ModelKind::vectors) { continue; }
        if (model.name == options.encoder) { return {}; }
        encoders += (encoders.empty() ? "" : ", ") + model.name;
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      "caching.semantic.encoder names '" + options.encoder +
                          "', which is no sentence encoder that is served here (serve it with --encoder " +
                          options.encoder + "=FOLDER" + (encoders.empty() ? "" : ", or name one of: " + encoders) +
                          ", or leave it empty: questions are then compared without a model)");
}

}  // namespace gateway
