#include "cli/admin_server.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"
#include "cli/vllm_names.h"
#include "gateway/http/server.h"
#include "gateway/keys/key_keeper.h"

namespace cli {
namespace {

gateway::HttpResponse text_answer(unsigned status, std::string body, std::string type = "text/plain; charset=utf-8") {
    gateway::HttpResponse response;
    response.status = status;
    response.content_type = std::move(type);
    response.body = std::move(body);
    return response;
}

/// Empty for who may read metrics.
std::optional<gateway::HttpResponse> refused(gateway::KeyKeeper& keys, const gateway::HttpRequest& request,
                                             base::TimePoint now) {
    keys.tick(now);
    const auto key = keys.who(request.head);
    if (key && (*key)->allows("admin")) { return std::nullopt; }
    base::warn_limited("metrics refused", "metrics are refused to {}: {}", request.client,
                       key ? "key " + (*key)->id + " lacks the scope admin" : key.error().message);
    if (key) { return text_answer(403, "this API key is not for operators: it lacks the scope 'admin'\n"); }
    gateway::HttpResponse response = text_answer(401, key.error().message + "\n");
    response.fields.emplace_back("WWW-Authenticate", "Bearer");
    return response;
}

/// Who asks for the parts of /ready and may read metrics; no failure of somebody who may not.
bool may_know_parts(gateway::KeyKeeper* keys, const gateway::HttpRequest& request, base::TimePoint now) {
    if (!gateway::asks_for_parts(request.head.query)) { return false; }
    if (keys == nullptr) { return true; }
    keys->tick(now);
    const auto key = keys->find(request.head);
    return key != nullptr && key->allows("admin");
}

gateway::HttpResponse ready_answer(const gateway::ReadyParts& parts, bool tells_parts) {
    const bool is_ready = gateway::are_ready(parts);
    return text_answer(is_ready ? 200 : 503, tells_parts ? gateway::ready_text(parts)
                                             : is_ready  ? "ok\n"
                                                         : "not ready\n");
}

}  // namespace

std::string read_admin_keys_file(base::Config& config) {
    return config.string("admin.keys_file", "");
}

struct AdminServer::Impl {
    boost::asio::io_context io{1};
    std::unique_ptr<FleetDesk> fleet;          // null: no page
    base::Metrics keys_metrics;                // those of a gateway's keys are not told of
    std::unique_ptr<gateway::KeyKeeper> keys;  // null: everybody may read metrics
    std::unique_ptr<gateway::HttpServer> server;
    std::jthread thread;
};

AdminServer::AdminServer() : impl_(std::make_unique<Impl>()) {}

AdminServer::~AdminServer() {
    impl_->io.stop();
    impl_->thread = {};
    impl_->fleet.reset();  // its thread posts to io
    impl_->server.reset();
}

std::uint16_t AdminServer::port() const {
    return impl_->server->port();
}

base::Result<std::unique_ptr<AdminServer>> AdminServer::start(
    const std::string& host, std::uint16_t port, bool allow_public, const base::Clock& clock, base::Metrics& metrics,
    Ready ready, std::function<void()> before_metrics, std::unique_ptr<FleetDesk> fleet, const std::string& keys_file) {
    auto admin = std::unique_ptr<AdminServer>(new AdminServer());
    if (!keys_file.empty()) {
        auto keys =
            gateway::KeyKeeper::open({.path = keys_file, .clock = clock, .metrics = admin->impl_->keys_metrics});
        if (!keys) { return base::pass_on(keys, "admin.keys_file"); }
        admin->impl_->keys = std::move(*keys);
    }
    gateway::HttpServer::Setup setup{
        .options = {}, .clock = clock, .handler = nullptr, .refused = nullptr, .refusal_body = nullptr, .cors = {}};
    setup.options.host = host;
    setup.options.port = port;
    setup.options.allow_public = allow_public;
    setup.options.connections_max = fleet ? 128 : 32;
    setup.options.limits.body_bytes_max = 64u << 10;
    setup.options.send_buffer_bytes_max = 16u << 20;
    setup.refused = [](const gateway::HttpRefusal&) {};
    setup.refusal_body = [](const gateway::HttpRefusal& refusal) { return refusal.message + "\n"; };
    setup.handler = [&metrics, ready = std::move(ready), before_metrics = std::move(before_metrics), desk = fleet.get(),
                     keys = admin->impl_->keys.get(),
                     &clock](gateway::HttpRequest request, std::shared_ptr<gateway::Exchange> exchange) {
        const std::string path = request.head.path;
        const bool is_metrics = path == "/metrics" || path == "/metrics/vllm";
        const bool is_ours = is_metrics || path == "/live" || path == "/ready";
        if (is_ours && request.head.method != "GET" && request.head.method != "HEAD") {
            gateway::HttpResponse refusal = text_answer(405, path + " is read with GET\n");
            refusal.fields.emplace_back("Allow", "GET, HEAD");
            exchange->respond(std::move(refusal));
        } else if (is_metrics) {
            if (auto refusal = keys != nullptr ? refused(*keys, request, clock.now()) : std::nullopt) {
                return exchange->respond(std::move(*refusal));
            }
            if (before_metrics) { before_metrics(); }
            std::string text = metrics.text();
            if (path != "/metrics") { text = vllm_names(text); }
            exchange->respond(text_answer(200, std::move(text), "text/plain; version=0.0.4; charset=utf-8"));
        } else if (path == "/live") {
            exchange->respond(text_answer(200, "ok\n"));
        } else if (path == "/ready") {
            exchange->respond(ready_answer(ready(), may_know_parts(keys, request, clock.now())));
        } else if (desk != nullptr && FleetDesk::is_route(path)) {
            desk->handle(request, exchange);
        } else {
            exchange->respond(text_answer(404, desk != nullptr ? "here are /fleet, /metrics, /live and /ready\n"
                                                               : "here are /metrics, /live and /ready\n"));
        }
    };
    if (fleet) {
        fleet->start([io = &admin->impl_->io](std::function<void()> step) { boost::asio::post(*io, std::move(step)); });
    }
    admin->impl_->fleet = std::move(fleet);
    auto server = gateway::HttpServer::start(admin->impl_->io, std::move(setup));
    if (!server) { return base::pass_on(server, "the admin listener"); }
    admin->impl_->server = std::move(*server);
    admin->impl_->thread = std::jthread([io = &admin->impl_->io] {
        const auto guard = boost::asio::make_work_guard(*io);
        io->run();
    });
    return admin;
}

}  // namespace cli
