#include "gateway/core.h"

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "base/log.h"
#include "gateway/api.h"
#include "gateway/certificate_keeper.h"
#include "gateway/page/page.h"
#include "gateway/tenant.h"
#include "gateway/text_queue.h"
#include "gateway/wake_timer.h"

namespace gateway {
namespace {

namespace asio = boost::asio;

constexpr base::Duration kGiveUpPatience = std::chrono::milliseconds(20);  // for what has nobody left to answer it
constexpr base::Duration kFlushTimeout = std::chrono::seconds(1);  // last errors to clients, last cancels to workers

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0"
#endif

std::uint64_t random_seed() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
}

}  // namespace

/// Everything but the threads is touched by the I/O thread only, once it runs.
struct GatewayCore::State {
    State(Setup given, Models given_models, Cors given_cors)
        : setup(std::move(given)),
          models(std::move(given_models)),
          cors(std::move(given_cors)),
          io(std::make_shared<asio::io_context>(1)),
          work(asio::make_work_guard(*io)),
          text_queue({.large_at_once = setup.options.text_threads}),
          text_threads(setup.options.text_threads + 1),
          metrics(setup.metrics, models.own_names(), setup.options.slo.names(), setup.options.slo.targets(),
                  setup.options.attainment_window),
          log({.kind = spdlog::should_log(spdlog::level::info) ? setup.options.access_log : AccessLogKind::off,
               .metrics = metrics,
               .clock = setup.clock,
               .sink = RequestLog::write_to_log,
               .spans = setup.tracing.spans,
               .observer =
                   [this](const RequestTag& tag, const RequestEnd& end) {
                       if (batches) { batches->runner().ended(tag, end); }
                   }}),
          timelines(setup.options.explain, setup.clock),
          timers(*io, setup.clock, [this](base::TimePoint now) { return tick(now); }) {
        metrics.aims(setup.options.slo.aims());
    }

    /// For threads that may outlive us. Not an owner of the loop: what was posted and did not run often owns a Post
    /// itself, and the two would keep each other.
    Post post_io() {
        return [loop = std::weak_ptr(io)](std::function<void()> run) {
            if (const auto alive = loop.lock()) { asio::post(*alive, std::move(run)); }
        };
    }

    Wake wake() {
        return [this](base::TimePoint at) { timers.by(at); };
    }

    std::optional<base::TimePoint> tick(base::TimePoint now) {
        std::optional<base::TimePoint> next = ports->tick(now);
        table->on_time();
        std::optional<base::TimePoint> look;
        if (certificate) { look = certificate->tick(now); }
        const auto search = cache ? cache->tick(now) : std::nullopt;
        const auto batch = batches ? batches->runner().tick(now) : std::nullopt;
        for (const auto at : {table->wakes_at(), api->tick(now), look, search, batch}) {
            if (at && (!next || *at < *next)) { next = at; }
        }
        return next;
    }

    /// Where the options name a file for them.
    base::Result<void> begin_batches() {
        const BatchOptions& options = setup.options.batch;
        if (!options.is_on()) { return {}; }
        const auto names = setup.options.slo.names();
        if (!options.slo_class.empty() && std::find(names.begin(), names.end(), options.slo_class) == names.end()) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "batch.slo_class: there is no class '" + options.slo_class + "' in slo_classes");
        }
        auto store = BatchStore::open(
            options.file,
            {.bytes_max = options.bytes_max, .files_max = options.files_max, .unfinished_max = options.unfinished_max});
        if (!store) { return base::pass_on(store); }
        auto unfinished = (*store)->unfinished();
        if (!unfinished) { return base::pass_on(unfinished); }
        batch_store = std::move(*store);
        batch_disk = std::make_unique<asio::thread_pool>(1);
        batches = std::make_unique<BatchDesk>(BatchDesk::Setup{
            .runner = {
                .options = options,
                .store = *batch_store,
                .post = post_io(),
                .post_disk = [this](std::function<void()> run) { asio::post(*batch_disk, std::move(run)); },
                .submit = [this](Endpoint endpoint, HttpRequest request, const std::shared_ptr<Exchange>& exchange,
                                 RequestTag tag) { api->take(endpoint, std::move(request), exchange, std::move(tag)); },
                .key = [this](const std::string& id) { return keys ? keys->of_id(id) : nullptr; },
                .in_flight = [this] { return api->in_flight(); },
                .random_id = [this](std::string_view prefix) { return api->random_id(prefix); },
                .tenant_header = setup.options.tenant_header,
                .clock = setup.clock,
                .metrics = metrics.registry(),
                .wake = wake()},
            .unfinished = std::move(*unfinished)});
        api->use_batches(*batches);
        return {};
    }

    /// The key's tenant, or the one that a proxy names; else the client.
    std::string payer(const RequestHead& head, const std::string& client) const {
        if (keys) {
            const auto key = keys->find(head);
            return key ? "tenant " + key->tenant : client;
        }
        const std::string& field = setup.options.tenant_header;
        if (field.empty() || head.field(field) == nullptr) { return client; }
        const auto tenant = tenant_of(head, field);
        return tenant ? "tenant " + *tenant : client;
    }

    std::optional<HttpRefusal> at_the_door(const RequestHead& head) const {
        if (setup.options.has_page && is_page_file(head.path)) { return std::nullopt; }
        return keys->refusal(head);
    }

    bool is_empty() const { return api->in_flight() == 0 && http->load().unanswered == 0; }

    /// Lets who waits for the end of a drain know of it: when everything that is on the stack has been done.
    void look_if_empty() {
        asio::post(*io, [this] {
            if (!http || !is_empty()) { return; }
            {
                const std::scoped_lock lock(mutex);
                was_empty = true;
            }
            emptied.notify_all();
        });
    }

    Setup setup;
    const std::vector<std::string> slo_names = setup.options.slo.names();
    const Models models;
    Cors cors;
    std::shared_ptr<asio::io_context> io;
    asio::executor_work_guard<asio::io_context::executor_type> work;
    TextQueue text_queue;
    asio::thread_pool text_threads;  // one more than large work may have
    GatewayMetrics metrics;
    RequestLog log;
    TimelineBook timelines;
    std::unique_ptr<ClusterPorts> ports;
    std::unique_ptr<TraceCapture> capture;  // null: nothing is captured
    std::unique_ptr<RequestTable> table;
    std::unique_ptr<KeyKeeper> keys;                 // null: everybody may ask
    std::unique_ptr<CertificateKeeper> certificate;  // null: in the clear
    std::unique_ptr<ResponseCache> cache;            // null: nothing in front of the model
    std::unique_ptr<Api> api;
    std::unique_ptr<BatchStore> batch_store;        // null: no batches
    std::unique_ptr<asio::thread_pool> batch_disk;  // one thread, the store's
    std::unique_ptr<BatchDesk> batches;
    std::unique_ptr<HttpServer> http;
    WakeTimer timers;
    std::uint16_t port = 0;
    std::mutex mutex;
    std::condition_variable emptied;
    bool was_empty = false;  // guarded by mutex; while draining
    std::jthread thread;
};

base::Result<void> check_files(const GatewayOptions& options) {
    if (options.tls_certificate_file.empty() != options.tls_key_file.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "TLS needs both gateway.tls_certificate_file and gateway.tls_key_file");
    }
    if (!options.tls_certificate_file.empty()) {
        const auto certificate = TlsCertificate::load(options.tls_certificate_file, options.tls_key_file);
        if (!certificate) { return base::pass_on(certificate); }
    }
    if (!options.keys_file.empty()) {
        const auto keys = read_key_list(options.keys_file);
        if (!keys) { return base::fail(base::ErrorCode::invalid_argument, keys.error().message); }
    }
    return {};
}

base::Result<std::unique_ptr<GatewayCore>> GatewayCore::start(Setup given) {
    if (const auto checked = check_files(given.options); !checked) { return base::pass_on(checked); }
    const InContextSettings& in_context = given.options.cache.in_context;
    const auto routed = check_in_context(in_context, given.options.cache.enabled, given.models);
    if (!routed) { return base::pass_on(routed); }
    const auto encoder = check_question_encoder(given.options.cache, given.models);
    if (!encoder) { return base::pass_on(encoder); }
    if (in_context.enabled) { given.options.aliases.push_back(in_context.name + "=" + in_context.large); }
    auto models = Models::make(given.models, given.options.aliases);
    if (!models) { return base::pass_on(models); }
    auto cors = Cors::make(given.options.cors_origins);
    if (!cors) { return base::pass_on(cors); }
    auto state = std::make_unique<State>(std::move(given), std::move(*models), std::move(*cors));
    State& s = *state;
    if (!s.setup.options.keys_file.empty()) {
        auto keys = KeyKeeper::open({.path = s.setup.options.keys_file,
                                     .look_interval = s.setup.options.files_look_interval,
                                     .clock = s.setup.clock,
                                     .metrics = s.metrics.registry()});
        if (!keys) { return base::pass_on(keys); }
        s.keys = std::move(*keys);
    }
    GatewayOptions& options = s.setup.options;
    if (!options.tls_certificate_file.empty()) {
        auto certificate = CertificateKeeper::open({.certificate_file = options.tls_certificate_file,
                                                    .key_file = options.tls_key_file,
                                                    .look_interval = options.files_look_interval,
                                                    .clock = s.setup.clock,
                                                    .metrics = s.metrics.registry()});
        if (!certificate) { return base::pass_on(certificate); }
        s.certificate = std::move(*certificate);
    }
    options.http.allow_public |= s.keys && s.certificate;  // strangers get nothing, and hear nothing
    if (options.capture.is_on()) {
        auto capture = TraceCapture::start(options.capture, s.metrics.registry(), s.setup.clock);
        if (!capture) { return base::pass_on(capture); }
        s.capture = std::move(*capture);
    }
    options.request.keeps_timelines |= s.setup.tracing.spans != nullptr;
    s.ports = s.setup.make_ports(s.models, s.post_io(), s.wake());
    s.table = std::make_unique<RequestTable>(RequestTable::Setup{.scheduler = s.ports->scheduler(),
                                                                 .workers = s.ports->workers(),
                                                                 .models = s.models,
                                                                 .clock = s.setup.clock,
                                                                 .metrics = s.metrics,
                                                                 .options = s.setup.options.request,
                                                                 .hash_key = s.setup.hash_key,
                                                                 .seed = random_seed(),
                                                                 .wake = s.wake(),
                                                                 .observer = s.capture.get()});
    s.ports->attach(*s.table);
    if (s.setup.options.cache.enabled) {
        s.cache = std::make_unique<ResponseCache>(ResponseCache::Setup{.options = s.setup.options.cache,
                                                                       .models = s.models,
                                                                       .hash_key = s.setup.hash_key,
                                                                       .loads = s.table->loads(),
                                                                       .inner = *s.table,
                                                                       .metrics = s.metrics.registry(),
                                                                       .clock = s.setup.clock,
                                                                       .post = s.post_io(),
                                                                       .wake = s.wake()});
    }
    s.api = std::make_unique<Api>(
        Api::Setup{.options = s.setup.options,
                   .models = s.models,
                   .hash_key = s.setup.hash_key,
                   .table = *s.table,
                   .source = s.cache ? s.cache->source() : *s.table,
                   .workers = s.ports->workers(),
                   .rewriters = s.cache ? s.cache->rewriters() : std::vector<const FormRewriter*>{},
                   .metrics = s.metrics,
                   .log = s.log,
                   .timelines = &s.timelines,
                   .tracing = s.setup.tracing,
                   .clock = s.setup.clock,
                   .post = s.post_io(),
                   .post_text =
                       [&s](const std::string& payer, std::uint64_t bytes, std::function<void()> work) {
                           s.text_queue.push(payer, bytes, std::move(work));
                           asio::post(s.text_threads, [&s] { s.text_queue.run(); });
                       },
                   .wake = s.wake(),
                   .load = [&s] { return s.http->load(); },
                   .cors = s.cors,
                   .version = SLUICE_VERSION,
                   .keys = s.keys.get(),
                   .cache = s.cache.get()});
    if (auto begun = s.begin_batches(); !begun) {
        s.ports->stop();
        return base::pass_on(begun);
    }
    auto http = HttpServer::start(
        *s.io,
        {.options = s.setup.options.http,
         .clock = s.setup.clock,
         .handler = [&s](
                        HttpRequest request,
                        std::shared_ptr<Exchange> exchange) { s.api->handle(std::move(request), std::move(exchange)); },
         .refused =
             [&s](const HttpRefusal& refusal) {
                 const unsigned status = refusal.status;
                 s.log.ended(
                     {.method = refusal.method, .path = refusal.path, .id = "", .received_at = s.setup.clock.now()},
                     {.endpoint = "refused", .model = GatewayMetrics::kNoModel, .status = status});
                 s.metrics.admission(GatewayMetrics::kNoModel, status == 413                    ? "rejected_too_large"
                                                               : status == 503 || status == 429 ? "rejected_capacity"
                                                                                                : "rejected_invalid");
             },
         .refusal_body =
             [](const HttpRefusal& refusal) {
                 ApiError error{.status = refusal.status, .message = refusal.message};
                 if (!refusal.code.empty()) { error.code = refusal.code; }
                 return error_json(error, Api::style_of(refusal.path));
             },
         .cors = s.cors,
         .certificate = s.certificate ? [&s] { return s.certificate->certificate(); }
                                      : std::function<std::shared_ptr<const TlsCertificate>()>(),
         .door = s.keys ? [&s](const RequestHead& head) { return s.at_the_door(head); }
                        : std::function<std::optional<HttpRefusal>(const RequestHead&)>(),
         .payer = [&s](const RequestHead& head, const std::string& client) { return s.payer(head, client); }});
    if (!http) {
        s.ports->stop();
        return base::pass_on(http);
    }
    s.http = std::move(*http);
    s.port = s.http->port();
    s.timers.by(s.setup.clock.now());
    s.thread = std::jthread([&s] { s.io->run(); });
    return std::unique_ptr<GatewayCore>(new GatewayCore(std::move(state)));
}

GatewayCore::GatewayCore(std::unique_ptr<State> state) : state_(std::move(state)) {}

GatewayCore::~GatewayCore() {
    stop(base::Duration::zero());
}

std::uint16_t GatewayCore::port() const {
    return state_->port;
}

void GatewayCore::when_ready(std::function<void()> tell) {
    asio::post(*state_->io,
               [s = state_.get(), tell = std::move(tell)]() mutable { s->table->when_ready(std::move(tell)); });
}

bool GatewayCore::is_ready() const {
    std::promise<bool> ready;
    asio::post(*state_->io, [s = state_.get(), &ready] { ready.set_value(s->table->is_ready()); });
    return ready.get_future().get();
}

void GatewayCore::refresh_metrics() {
    asio::post(*state_->io, [s = state_.get()] {
        if (s->http) { s->api->refresh_metrics(); }
    });
}

base::Result<void> GatewayCore::change(const GatewayChange& change) {
    auto cors = Cors::make(change.cors_origins);
    if (!cors) { return base::pass_on(cors); }
    if (change.slo.names() != state_->slo_names) {
        return base::fail(base::ErrorCode::failed_precondition,
                          "slo_classes: other classes than at the start need a restart; their targets may change");
    }
    asio::post(*state_->io, [s = state_.get(), slo = change.slo, cors = std::move(*cors)] {
        s->setup.options.slo = slo;
        s->metrics.aims(slo.aims());
        s->cors = cors;
        if (s->http) { s->http->set_cors(cors); }
    });
    return {};
}

void GatewayCore::drain_and_stop() {
    stop(state_->setup.options.drain_timeout);
}

void GatewayCore::give_up_and_stop() {
    stop(kGiveUpPatience);
}

void GatewayCore::stop(base::Duration drain_timeout) {
    State& s = *state_;
    if (!s.thread.joinable()) { return; }
    const auto on_io = [&s](auto run) {
        std::promise<decltype(run())> promise;
        auto result = promise.get_future();
        asio::post(*s.io, [&] {
            if constexpr (std::is_void_v<decltype(run())>) {
                run();
                promise.set_value();
            } else {
                promise.set_value(run());
            }
        });
        return result.get();
    };
    const auto wait_until_empty = [&](base::Duration timeout) {
        std::unique_lock lock(s.mutex);
        return s.emptied.wait_for(lock, timeout, [&s] { return s.was_empty; });
    };
    const bool is_empty_at_once = on_io([&s] {
        if (s.batches) { s.batches->runner().stop(); }
        s.api->drain([&s] { s.look_if_empty(); });
        s.http->drain([&s] { s.look_if_empty(); });
        return s.is_empty();
    });
    if (!is_empty_at_once && !wait_until_empty(drain_timeout)) {
        on_io([&s] {
            if (s.api->in_flight() == 0) { return; }
            spdlog::warn("drain timeout: {} requests are ended with an error", s.api->in_flight());
            s.api->give_up_all();
        });
        wait_until_empty(drain_timeout > base::Duration::zero() ? kFlushTimeout : kGiveUpPatience);
        on_io([&s] { s.http->cut_all(); });
    }
    s.text_threads.join();
    on_io([&s] {
        s.api->give_up_all();  // what a text thread had in work
        if (s.cache) { s.cache->stop(); }
    });
    on_io([&s] {
        s.timers.stop();
        s.http.reset();
        s.ports->stop();
    });
    s.work.reset();
    s.io->stop();
    s.thread.join();
    if (s.batch_disk) { s.batch_disk->join(); }  // what was answered is kept
    s.batches.reset();
    s.api.reset();
    s.cache.reset();
    s.table.reset();
}

}  // namespace gateway
