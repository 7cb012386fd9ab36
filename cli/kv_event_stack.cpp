#include "cli/kv_event_stack.h"

#include <fmt/format.h>

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/loopback.h"

namespace cli {

using base::ErrorCode;

namespace {

constexpr std::string_view kTcp = "tcp://";
constexpr std::string_view kIpc = "ipc://";
constexpr std::uint32_t kPortMax = 65535;

/// What an endpoint says; empty when it is none that can be listened on.
struct Endpoint {
    std::string_view host;              // tcp; with the brackets of an IPv6 address
    std::optional<std::uint32_t> port;  // empty: any free one, or ipc
    bool is_tcp = false;
};

std::optional<Endpoint> parse_endpoint(std::string_view text) {
    if (text.starts_with(kIpc)) { return text.size() > kIpc.size() ? std::optional(Endpoint{}) : std::nullopt; }
    if (!text.starts_with(kTcp)) { return std::nullopt; }
    const std::string_view rest = text.substr(kTcp.size());
    const std::size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos || colon == 0) { return std::nullopt; }
    Endpoint endpoint{.host = rest.substr(0, colon), .port = {}, .is_tcp = true};
    const std::string_view port = rest.substr(colon + 1);
    if (port == "*") { return endpoint; }
    std::uint32_t number = 0;
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
    if (error != std::errc{} || end != port.data() + port.size() || number == 0 || number > kPortMax) {
        return std::nullopt;
    }
    endpoint.port = number;
    return endpoint;
}

std::string read_endpoint(base::Config& config, std::string_view key) {
    std::string endpoint = config.string(key, "");
    if (!endpoint.empty() && !parse_endpoint(endpoint)) {
        config.problem(key, fmt::format("is '{}': an address to listen on is tcp://HOST:PORT (PORT * for any free one) "
                                        "or ipc://PATH",
                                        endpoint));
    }
    return endpoint;
}

}  // namespace

KvEventSettings read_kv_events(base::Config& config) {
    KvEventSettings settings;
    settings.endpoint = read_endpoint(config, "worker.kv_events.endpoint");
    settings.replay_endpoint = read_endpoint(config, "worker.kv_events.replay_endpoint");
    settings.topic = config.string("worker.kv_events.topic", "");
    const auto count = [&](std::string_view key, std::int64_t fallback) {
        return static_cast<std::uint32_t>(config.integer(key, fallback, 1, 1'000'000));
    };
    settings.queue_batches_max = count("worker.kv_events.queue_batches_max", 1024);
    settings.subscriber_batches_max = count("worker.kv_events.subscriber_batches_max", 1000);
    settings.kept_batches_max = count("worker.kv_events.kept_batches_max", 10'000);
    settings.kept_bytes_max =
        static_cast<std::uint64_t>(config.integer("worker.kv_events.kept_bytes_max", 64 << 20, 1 << 16));
    if (settings.endpoint.empty() && !settings.replay_endpoint.empty()) {
        config.problem("worker.kv_events.replay_endpoint",
                       "sends events again that nobody sends: set worker.kv_events.endpoint, too");
    }
    return settings;
}

base::Result<void> check_kv_events(const KvEventSettings& settings, const ClusterSettings& cluster) {
    for (const auto& [key, text] : {std::pair("worker.kv_events.endpoint", settings.endpoint),
                                    std::pair("worker.kv_events.replay_endpoint", settings.replay_endpoint)}) {
        const auto endpoint = parse_endpoint(text);
        if (!endpoint || !endpoint->is_tcp || base::is_loopback_host(endpoint->host) || cluster.trusted_network) {
            continue;
        }
        return base::fail(ErrorCode::permission_denied,
                          fmt::format("{} is {}: KV events show the tokens of all prompts to whoever connects, in the "
                                      "clear, so this needs a network on which everybody is trusted (--set "
                                      "cluster.trusted_network=true); without it listen on 127.0.0.1 or ipc://",
                                      key, text));
    }
    return {};
}

std::string endpoint_of_rank(const std::string& text, std::uint32_t rank) {
    const auto endpoint = parse_endpoint(text);
    if (!endpoint || rank == 0) { return text; }
    if (!endpoint->is_tcp) { return fmt::format("{}_dp{}", text, rank); }
    if (!endpoint->port) { return text; }
    return fmt::format("{}{}:{}", kTcp, endpoint->host, *endpoint->port + rank);
}

base::Result<std::unique_ptr<KvEventStack>> KvEventStack::start(const KvEventSettings& settings,
                                                                const std::string& worker,
                                                                const std::vector<kv_cache::KvCache*>& caches,
                                                                const std::vector<std::string>& levels,
                                                                const base::Clock& clock, base::Metrics& metrics) {
    CHECK(caches.size() == levels.size() + 1);
    const std::uint32_t block_tokens = caches.front()->options().block_tokens;
    worker::KvEventPublisher::Options options;
    options.endpoint = endpoint_of_rank(settings.endpoint, settings.rank);
    options.replay_endpoint = endpoint_of_rank(settings.replay_endpoint, settings.rank);
    options.topic = settings.topic;
    // As vLLM calls them, whatever the pool's memory is: routers know these names.
    options.form = {.block_tokens = block_tokens, .mediums = {"GPU"}, .rank = settings.rank};
    for (const std::string& level : levels) {
        options.form.mediums.push_back(level == "host" ? "CPU" : level == "disk" ? "DISK" : "EXTERNAL");
    }
    options.queue_batches_max = settings.queue_batches_max;
    options.subscriber_batches_max = settings.subscriber_batches_max;
    options.kept_batches_max = settings.kept_batches_max;
    options.kept_bytes_max = settings.kept_bytes_max;
    options.worker = worker;

    std::unique_ptr<KvEventStack> stack(new KvEventStack());
    auto publisher = worker::KvEventPublisher::start(std::move(options), clock, metrics);
    if (!publisher) { return base::pass_on(publisher, "worker.kv_events"); }
    stack->publisher_ = std::move(*publisher);
    stack->events_ = std::make_unique<worker::KvEvents>(worker::KvEvents::Options{.block_tokens = block_tokens}, clock,
                                                        *stack->publisher_);
    for (kv_cache::KvCache* cache : caches) {
        stack->events_->add(*cache);
    }
    const std::string& replay = stack->publisher_->replay_endpoint();
    spdlog::info("{}: KV events at {}{}", worker, stack->publisher_->endpoint(),
                 replay.empty() ? "" : ", again at " + replay);
    return stack;
}

}  // namespace cli
