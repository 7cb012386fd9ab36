#include "gateway/options.h"

#include <algorithm>
#include <limits>

#include "gateway/openai/tool_stream.h"

namespace gateway {
namespace {

base::Duration milliseconds(base::Config& config, std::string_view key, base::Duration fallback, std::int64_t low,
                            std::int64_t high) {
    const auto count = std::chrono::duration_cast<std::chrono::milliseconds>(fallback).count();
    return std::chrono::milliseconds(config.integer(key, count, low, high));
}

template <class T>
T integer(base::Config& config, std::string_view key, T fallback, std::int64_t low, std::int64_t high) {
    return static_cast<T>(config.integer(key, static_cast<std::int64_t>(fallback), low, high));
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
}

constexpr std::int64_t kDayMs = 24ll * 3600 * 1000;
constexpr std::int64_t kGiB = 1ll << 30;
constexpr std::int64_t kTokensMax = std::numeric_limits<std::int32_t>::max();

}  // namespace

GatewayOptions GatewayOptions::read(base::Config& config) {
    GatewayOptions options;
    options.model = config.string("gateway.model", options.model);
    options.aliases = config.strings("gateway.aliases", options.aliases);
    options.tenant_header = lower(config.string("gateway.tenant_header", options.tenant_header));
    options.tenants_named_max = integer(config, "gateway.tenants_named_max", options.tenants_named_max, 0, 10'000);
    options.name = config.string("gateway.name", options.name);
    options.keys_file = config.string("gateway.keys_file", options.keys_file);
    options.tls_certificate_file = config.string("gateway.tls_certificate_file", options.tls_certificate_file);
    options.tls_key_file = config.string("gateway.tls_key_file", options.tls_key_file);
    options.files_look_interval =
        milliseconds(config, "gateway.files_look_ms", options.files_look_interval, 10, kDayMs);
    options.cors_origins = config.strings("gateway.cors_origins", options.cors_origins);
    const std::string log = config.choice("gateway.access_log", "all", {"all", "api", "off"});
    options.access_log = log == "off" ? AccessLogKind::off : log == "api" ? AccessLogKind::api : AccessLogKind::all;
    const std::string page = config.choice("gateway.page", "auto", {"auto", "on", "off"});
    options.has_page = page == "on" || (page == "auto" && options.keys_file.empty());
    const std::string fleet = config.choice("gateway.fleet_page", "auto", {"auto", "on", "off"});
    options.fleet_page = fleet == "on" ? FleetPage::on : fleet == "off" ? FleetPage::off : FleetPage::automatic;
    options.allow_reset_prefix_cache = config.boolean("gateway.reset_prefix_cache", options.allow_reset_prefix_cache);
    options.usage_in_streams = config.boolean("gateway.usage_in_streams", options.usage_in_streams);

    HttpServerOptions& http = options.http;
    http.host = config.string("gateway.host", http.host);
    http.port = integer(config, "gateway.port", http.port, 0, 65535);
    http.allow_public = config.boolean("gateway.listen_public", http.allow_public);
    http.limits.header_bytes_max =
        integer(config, "gateway.header_bytes_max", http.limits.header_bytes_max, 1024, 1 << 20);
    http.limits.target_bytes_max =
        integer(config, "gateway.target_bytes_max", http.limits.target_bytes_max, 256, 1 << 16);
    http.limits.header_fields_max =
        integer(config, "gateway.header_fields_max", http.limits.header_fields_max, 8, 1000);
    http.limits.body_bytes_max = integer(config, "gateway.body_bytes_max", http.limits.body_bytes_max, 1024, kGiB);
    http.hosts = config.strings("gateway.hosts", http.hosts);
    http.trusted_proxies = config.strings("gateway.trusted_proxies", http.trusted_proxies);
    const std::string forwarded =
        config.choice("gateway.forwarded_field", "x-forwarded-for", {"x-forwarded-for", "forwarded"});
    http.forwarded_field = forwarded == "forwarded" ? ForwardedField::forwarded : ForwardedField::x_forwarded_for;
    http.connections_max = integer(config, "gateway.connections_max", http.connections_max, 1, 1 << 20);
    http.connections_per_client_max =
        integer(config, "gateway.connections_per_client_max", http.connections_per_client_max, 1, 1 << 20);
    http.bodies_bytes_max = integer(config, "gateway.bodies_bytes_max", http.bodies_bytes_max, 1024, 64 * kGiB);
    http.bodies_bytes_per_client_max =
        integer(config, "gateway.bodies_bytes_per_client_max", http.bodies_bytes_per_client_max, 1024, 64 * kGiB);
    http.send_buffer_bytes_max =
        integer(config, "gateway.send_buffer_bytes_max", http.send_buffer_bytes_max, 1024, kGiB);
    http.socket_send_bytes = integer(config, "gateway.socket_send_bytes", http.socket_send_bytes, 0, 1 << 26);
    http.idle_timeout = milliseconds(config, "gateway.idle_timeout_ms", http.idle_timeout, 1, kDayMs);
    http.header_timeout = milliseconds(config, "gateway.header_timeout_ms", http.header_timeout, 1, kDayMs);
    http.body_timeout = milliseconds(config, "gateway.body_timeout_ms", http.body_timeout, 1, kDayMs);
    http.write_timeout = milliseconds(config, "gateway.write_timeout_ms", http.write_timeout, 1, kDayMs);

    options.form.n_max = integer(config, "gateway.n_max", options.form.n_max, 1, 1024);
    options.form.prompts_max = integer(config, "gateway.prompts_max", options.form.prompts_max, 1, 2048);
    options.form.inputs_max = integer(config, "gateway.embedding_texts_max", options.form.inputs_max, 1, 65536);
    options.form.stop_strings_max = integer(config, "gateway.stop_strings_max", options.form.stop_strings_max, 1, 64);
    options.form.logit_bias_max = integer(config, "gateway.logit_bias_max", options.form.logit_bias_max, 0, 100000);

    options.form.text_bytes_max = integer(config, "gateway.text_bytes_max", options.form.text_bytes_max, 1, kGiB);
    const std::string format =
        config.choice("gateway.tool_format", "auto", {"auto", "hermes", "llama3", "mistral", "deepseek", "json"});
    for (const ToolFormat one :
         {ToolFormat::hermes, ToolFormat::llama3, ToolFormat::mistral, ToolFormat::deepseek, ToolFormat::json}) {
        if (format == tool_format_name(one)) { options.form.tool_format = one; }
    }
    options.form.all_calls_by_schema = config.choice("gateway.calls_by_schema", "all", {"all", "strict"}) == "all";
    options.form.leaves_tools_out =
        config.choice("gateway.tools_without_template", "leave_out", {"leave_out", "refuse"}) == "leave_out";
    options.form.grammar_bytes_max =
        integer(config, "gateway.grammar_bytes_max", options.form.grammar_bytes_max, 1, 1 << 20);
    options.form.template_bytes_max =
        integer(config, "gateway.request_template_bytes_max", options.form.template_bytes_max, 0, 1 << 20);
    if (const auto most = config.integer("gateway.reasoning_tokens_max", -1, -1, kTokensMax); most >= 0) {
        options.form.reasoning_tokens_max = static_cast<std::uint32_t>(most);
    }
    const std::string fields =
        config.choice("gateway.reasoning_fields", "both", {"both", "reasoning_content", "reasoning", "none"});
    options.reasoning_fields = fields == "both"                ? ReasoningFields::both
                               : fields == "reasoning_content" ? ReasoningFields::reasoning_content
                               : fields == "reasoning"         ? ReasoningFields::reasoning
                                                               : ReasoningFields::none;
    options.form.logprob_records_max =
        integer(config, "gateway.logprob_records_max", options.form.logprob_records_max, 1, 1ll << 40);

    options.slo = SloClasses::read(config);
    options.attainment_window = read_attainment_window(config);
    options.explain = ExplainOptions::read(config);
    options.capture = CaptureOptions::read(config);
    options.cache = CacheOptions::read(config);
    options.batch = BatchOptions::read(config);
    options.request.keeps_timelines = options.explain.is_on();

    RequestOptions& request = options.request;
    request.placements_max = integer(config, "gateway.placements_max", request.placements_max, 1, 100);
    request.place_timeout = milliseconds(config, "gateway.place_timeout_ms", request.place_timeout, 1, kDayMs);
    request.place_wait_max = milliseconds(config, "gateway.place_wait_max_ms", request.place_wait_max, 0, kDayMs);
    request.replace_wait_max = milliseconds(config, "gateway.replace_wait_max_ms", request.replace_wait_max, 0, kDayMs);
    request.retries.share = config.number("gateway.retry_percent", request.retries.share * 100, 0, 10'000) / 100;
    request.retries.floor_per_s = config.number("gateway.retry_floor_per_s", request.retries.floor_per_s, 0, 1'000'000);
    request.retries.saved_max = config.number("gateway.retry_saved_max", request.retries.saved_max, 1, 1'000'000);
    request.generations_max = integer(config, "gateway.sequences_max", request.generations_max, 1, 1 << 20);

    options.inflight_requests_max =
        integer(config, "gateway.inflight_requests_max", options.inflight_requests_max, 1, 1 << 20);
    options.embedding_texts_at_once =
        integer(config, "gateway.embedding_texts_at_once", options.embedding_texts_at_once, 1, 4096);
    options.prefix_tokens_max = integer(config, "gateway.prefix_tokens_max", options.prefix_tokens_max, 0, 1ll << 34);
    options.tenants_share_prefixes = config.boolean("gateway.tenants_share_prefixes", options.tenants_share_prefixes);
    options.text_threads = integer(config, "gateway.text_threads", options.text_threads, 1, 64);
    options.request_timeout = milliseconds(config, "gateway.request_timeout_ms", options.request_timeout, 1, kDayMs);
    options.ping_interval = milliseconds(config, "gateway.ping_interval_ms", options.ping_interval, 0, kDayMs);
    options.drain_timeout = milliseconds(config, "gateway.drain_timeout_ms", options.drain_timeout, 0, kDayMs);
    options.worker_lost_after =
        milliseconds(config, "gateway.worker_lost_after_ms", options.worker_lost_after, 10, kDayMs);
    options.worker_hello_timeout =
        milliseconds(config, "gateway.worker_hello_timeout_ms", options.worker_hello_timeout, 10, kDayMs);
    options.worker_inbox_bytes_max =
        integer(config, "gateway.worker_inbox_bytes_max", options.worker_inbox_bytes_max, 1 << 12, kGiB);
    options.describe_interval =
        milliseconds(config, "gateway.describe_interval_ms", options.describe_interval, 10, kDayMs);
    return options;
}

}  // namespace gateway
