#include "cli/worker_process.h"

#include <fmt/format.h>

#include <chrono>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "cli/kv_codecs.h"
#include "cli/process.h"
#include "cli/served_models.h"
#include "decode_worker/decode_part.h"
#include "decode_worker/receiver_port.h"
#include "device/cuda/cuda_device.h"
#include "engine/fault_engine.h"
#include "engine/grammar_pool.h"
#include "engine/model/encoder_config.h"
#include "engine/warm_up.h"
#include "kv_cache/kv_cache.h"
#include "kv_transfer/router.h"
#include "prefill_worker/prefill_part.h"
#include "prefill_worker/sender_port.h"
#include "proto/roles.h"
#include "text/model_text.h"
#include "worker/kv_fetcher.h"
#include "worker/kv_lender.h"
#include "worker/pool_prefault.h"
#include "worker/registration.h"
#include "worker/role_turn.h"
#include "worker/run_steps.h"
#include "worker/service.h"
#include "worker/step_loop.h"
#include "worker/turn_service.h"

namespace cli {
namespace {

std::uint64_t random_id() {
    std::random_device source;
    const std::uint64_t id = (std::uint64_t{source()} << 32) | source();
    return id == 0 ? 1 : id;  // 0 means "none" in messages
}

/// A model's tokens as grammars see them. Its tokenizer is read in a process of its own, which then ends; or, with
/// `forces`, stays, and is asked now and then how it cuts what grammars force.
engine::GrammarPool::LoadVocabulary vocabulary_of(std::string model_dir, text::TextProcessOptions options,
                                                  std::uint32_t vocabulary, bool forces) {
    return [model_dir = std::move(model_dir), options = std::move(options), vocabulary,
            forces]() -> base::Result<std::shared_ptr<const text::GrammarVocabulary>> {
        auto process = text::TextProcess::start(options);
        if (!process) { return base::pass_on(process); }
        const auto model = text::ModelText::load(model_dir, {.process = std::move(*process)});
        if (!model) { return base::pass_on(model); }
        return text::GrammarVocabulary::make(*model->tokenizer, model->eos_ids, vocabulary,
                                             forces ? model->tokenizer : nullptr);
    };
}

constexpr std::uint64_t kPrefaultAheadBytes = std::uint64_t{64} << 20;
constexpr std::size_t kOtherTasksMax = 256;  // of the step thread, beside the events of transfers

}  // namespace

base::Result<void> check_role(const std::string& model_dir, worker::Role role) {
    const auto architecture = engine::read_architecture(model_dir);
    if (!architecture) { return base::pass_on(architecture); }
    const bool encodes = role == worker::Role::encode;
    if (engine::is_encoder(*architecture) == encodes) { return {}; }
    return base::fail(base::ErrorCode::invalid_argument,
                      fmt::format("{} {}", model_dir,
                                  encodes ? "holds a model that makes text and no sentence encoder: give it to --model "
                                            "of 'serve', or to 'mixed', 'prefill' and 'decode'"
                                          : "holds a sentence encoder, which gives vectors and no text: give it to "
                                            "--encoder of 'serve', or to 'encode'"));
}

void read_worker_config(base::Config& config, WorkerSetup& setup) {
    engine::EngineOptions& engine = setup.engine;
    std::vector<std::string> devices{"auto", "host"};
    for (std::uint32_t gpu = 0; gpu < 16; ++gpu) {  // as many as one machine has
        devices.push_back(fmt::format("cuda:{}", gpu));
    }
    engine.device = config.choice("engine.device", "auto", devices);
    engine.kernels = config.choice("engine.kernels", "auto", {"auto", "amx", "avx512", "avx2", "reference", "cuda"});
    engine.deterministic = config.boolean("engine.deterministic", false);
    engine.prefill_attention = config.choice("engine.prefill_attention", "auto", {"auto", "mma", "wgmma"});
    engine.dependent_launch = config.boolean("engine.dependent_launch", false);
    engine.weight_format = config.choice("engine.weight_format", "auto", {"auto", "f32", "bf16", "fp8"});
    setup.warm_up = config.boolean("engine.warm_up", true);
    engine.kv_dtype = config.choice("engine.kv_dtype", "auto", {"auto", "f32", "bf16"});
    engine.block_tokens = static_cast<std::uint32_t>(config.integer("engine.block_tokens", 16, 16, 1024));
    engine.kv_pool_bytes = static_cast<std::uint64_t>(config.integer("engine.kv_pool_bytes", 0, 0));
    engine.host_memory_bytes = static_cast<std::uint64_t>(config.integer("engine.host_memory_bytes", 0, 0));
    engine.kv_prefault = config.boolean("engine.kv_prefault", false);
    setup.kv_prefault_ahead_bytes = static_cast<std::uint64_t>(
        config.integer("engine.kv_prefault_ahead_bytes", static_cast<std::int64_t>(kPrefaultAheadBytes), 0));
    engine.gpu_memory_share = config.number("engine.gpu_memory_share", 0.9, 0.01, 1);
    engine.layer_group = static_cast<std::uint32_t>(config.integer("engine.layer_group", 0, 0, 1024));
    engine.packed_dir = config.string("engine.packed_dir", "");
    engine.packed_bytes_max = static_cast<std::uint64_t>(
        config.integer("engine.packed_bytes_max", static_cast<std::int64_t>(engine::kPackedBytesMax), 0));
    const auto place = device::parse_device(engine.device);
    const bool names_host_kernels = engine.kernels != "auto" && engine.kernels != "cuda";
    setup.limits = worker::WorkerOptions::read(config, place && place->is_cuda && !names_host_kernels);
    setup.may_turn = config.boolean("worker.may_turn", false);
    engine.batch_tokens_max = setup.limits.batch_tokens_max;
    engine.batch_sequences_max = setup.limits.batch_sequences_max;
    read_kv_plane(config, setup.kv_plane);
    setup.kv_tiers = read_kv_tiers(config);
    setup.kv_events = read_kv_events(config);
    setup.device_lost_after_steps =
        static_cast<std::uint64_t>(config.integer("test.device_lost_after_steps", 0, 0, 1'000'000'000));
}

struct WorkerProcess::Impl {
    // In the order in which they are built; the last one is destroyed first.
    WorkerSetup setup;
    const base::Clock* clock = nullptr;
    std::unique_ptr<engine::Engine> engine;
    std::unique_ptr<kv_cache::KvCache> cache;
    std::unique_ptr<worker::PoolPrefault> pool_prefault;  // null: none
    worker::ReportBoard board;
    std::unique_ptr<worker::TurnService> turn_service;  // of the server
    std::unique_ptr<worker::WorkerServer> server;
    std::unique_ptr<engine::GrammarPool> grammars;  // null: an encoder
    std::unique_ptr<worker::StepLoop> loop;
    worker::RolePart whole_part;
    worker::RolePart encode_part;
    prefill_worker::SenderPort sender_port;
    decode_worker::ReceiverPort receiver_port;
    std::unique_ptr<prefill_worker::PrefillPart> prefill_part;
    std::unique_ptr<decode_worker::DecodePart> decode_part;
    std::unique_ptr<worker::KvFetcher> fetcher;
    std::unique_ptr<worker::KvLender> lender;
    std::unique_ptr<KvTierStack> tiers;    // null: none
    std::unique_ptr<KvEventStack> events;  // null: none
    std::unique_ptr<net::Transport> transport;
    KvCodecs kv_codecs;
    kv_transfer::KvSender::Options sender_options;
    kv_transfer::KvReceiver::Options receiver_options;
    std::unique_ptr<kv_transfer::KvSender> sender;
    std::unique_ptr<kv_transfer::KvReceiver> receiver;
    std::unique_ptr<kv_transfer::KvRouter> router;
    worker::WorkerIdentity identity;
    std::unique_ptr<worker::Registration> registration;
    std::jthread step_thread;
    std::unique_ptr<worker::RoleTurn> role_turn;
    bool is_stopped = false;
    mutable std::mutex mutex;
    std::optional<base::Error> device_lost;  // guarded by mutex

    base::Result<void> start(base::Metrics& metrics, const std::function<void(std::uint64_t, std::uint64_t)>& progress);
    void tell_cache(base::Metrics& metrics) const;
    base::Result<void> start_kv_parts(base::Metrics& metrics);
    base::Result<void> start_kv_events(base::Metrics& metrics);
    base::Result<void> start_kv_plane(base::Metrics& metrics);
    sluice::proto::RegisterWorker registration_message() const;
    void note_device_lost(const base::Error& error);
    void begin_drain();
    void stop();
};

base::Result<void> WorkerProcess::Impl::start(base::Metrics& metrics,
                                              const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    if (auto checked = check_role(setup.engine.model_dir, setup.role); !checked) { return checked; }
    auto loaded = engine::load_engine(setup.engine, progress);
    if (!loaded) { return base::pass_on(loaded); }
    engine = std::move(*loaded);
    if (auto tried = engine::try_model(*engine, setup.engine.batch_tokens_max); !tried) {
        return base::pass_on(tried, setup.engine.model_dir);
    }
    if (setup.warm_up && engine->keeps_kv() && !engine->kv_store().device().is_host_memory()) {
        const auto begin = std::chrono::steady_clock::now();
        auto warm = engine::warm_up(*engine, setup.engine.batch_tokens_max, setup.engine.batch_sequences_max);
        if (!warm) { return base::pass_on(warm, "warming up (engine.warm_up)"); }
        spdlog::info("warmed up in {:.1f} s",
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    if (setup.device_lost_after_steps > 0) {
        spdlog::warn("the device is lost after {} steps by configuration", setup.device_lost_after_steps);
        engine = engine::make_fault_engine(std::move(engine), setup.device_lost_after_steps);
    }
    cache = std::make_unique<kv_cache::KvCache>(
        kv_cache::KvCache::Options{.blocks_total = engine->blocks_total(), .block_tokens = setup.engine.block_tokens});

    if (setup.kv_prefault_ahead_bytes > 0 && !setup.engine.kv_prefault && engine->keeps_kv() &&
        engine->kv_store().device().is_host_memory()) {
        pool_prefault =
            std::make_unique<worker::PoolPrefault>(engine->kv_store(), *cache, setup.kv_prefault_ahead_bytes);
    }

    turn_service = std::make_unique<worker::TurnService>(setup.cluster.control());
    auto listening = worker::WorkerServer::listen(fmt::format("{}:{}", setup.listen_host, setup.listen_port),
                                                  setup.limits, *clock, setup.cluster.control(), turn_service.get());
    if (!listening) { return base::pass_on(listening); }
    server = std::move(*listening);

    identity.model = setup.served_name;
    identity.numerics_id = static_cast<std::uint64_t>(engine->numerics_id());
    identity.worker = base::WorkerId{setup.worker_id == 0 ? random_id() : setup.worker_id};
    identity.incarnation = base::Incarnation{random_id()};
    identity.control_address = fmt::format("{}:{}", setup.listen_host, server->port());

    sender_options.fetches_max = setup.limits.fetches_max;
    receiver_options.fetches_max = setup.limits.fetches_max;
    tell_cache(metrics);
    if (engine->keeps_kv()) {
        grammars = std::make_unique<engine::GrammarPool>(
            vocabulary_of(setup.engine.model_dir, setup.text, engine->shape().vocabulary,
                          setup.limits.forced_tokens_max > 0),
            engine->shape().vocabulary,
            engine::GrammarPool::Options{.mask_threads = setup.limits.grammar_threads,
                                         .compile_threads = setup.limits.grammar_threads,
                                         .compiled_max = setup.limits.grammars_kept_max,
                                         .forced_max = setup.limits.forced_tokens_max});
    }
    loop = std::make_unique<worker::StepLoop>(
        worker::StepLoop::Options{.limits = setup.limits,
                                  .hash_key = setup.cluster.key,
                                  .model = setup.served_name,
                                  .worker = setup.name,
                                  .role = setup.role,
                                  .tasks_max = kv_transfer::events_max(sender_options, receiver_options) +
                                               KvTierStack::events_max(setup.kv_tiers) + kOtherTasksMax,
                                  .device_lost = [this](const base::Error& error) { note_device_lost(error); },
                                  .grammars = grammars.get(),
                                  .spans = setup.spans},
        *engine, *cache, *server, board, *clock, metrics);
    if (engine->keeps_kv()) {
        if (auto started = start_kv_parts(metrics); !started) { return started; }
    } else {
        loop->attach(worker::Part::encode, &encode_part);
    }

    step_thread = std::jthread([this](std::stop_token stop) { worker::run_steps(*loop, stop); });
    server->serve(identity, *loop, board);
    role_turn = std::make_unique<worker::RoleTurn>(worker::RoleTurn::Setup{
        .role = setup.role,
        .may_turn = setup.may_turn,
        .patience = setup.limits.drain_timeout,
        .allows = [this](worker::Role role) -> base::Result<void> {
            const auto run = base::peer_role_of(worker::role_name(role));
            return run ? setup.cluster.check_role(*run) : base::Result<void>();
        },
        .set_draining =
            [this](bool is_draining) {
                board.set_draining(is_draining);
                registration->report_soon();
            },
        .wait_idle = [this](std::chrono::milliseconds patience) { return loop->wait_idle(clock->now() + patience); },
        .register_as =
            [this](worker::Role role) {
                board.set_role(role);
                loop->wake();
                registration->register_as(role);
            }});
    registration = std::make_unique<worker::Registration>(
        setup.scheduler_addresses, registration_message(), setup.limits, board, *clock, metrics,
        [this] {
            spdlog::info("{}: draining, as the scheduler asks", setup.name);
            begin_drain();
        },
        setup.cluster.control());
    turn_service->attach(identity.incarnation, *role_turn);
    return {};
}

/// What KV memory there is and how it is kept: a row that is always 1.
void WorkerProcess::Impl::tell_cache(base::Metrics& metrics) const {
    if (!engine->keeps_kv()) { return; }
    const kv_cache::KvFormat& format = engine->layout().format();
    metrics
        .gauge("sluice_worker_cache_config_info", "Always 1; its labels are the KV memory of the worker",
               {{"model", setup.served_name},
                {"worker", setup.name},
                {"block_size", std::to_string(setup.engine.block_tokens)},
                {"num_blocks", std::to_string(engine->blocks_total())},
                {"dtype", std::string(format.dtype == kv_cache::KvDtype::f32 ? "f32" : "bf16")},
                {"kv_format", format.name()}})
        .Set(1);
}

base::Result<void> WorkerProcess::Impl::start_kv_parts(base::Metrics& metrics) {
    auto made = make_kv_codecs(setup.limits, *engine, identity.numerics_id);
    if (!made) { return base::pass_on(made); }
    kv_codecs = std::move(*made);
    sender_options.codecs = receiver_options.codecs = kv_codecs.codecs();
    prefill_part = std::make_unique<prefill_worker::PrefillPart>(setup.limits, engine->shape().layers,
                                                                 identity.incarnation, *loop, sender_port);
    decode_part =
        std::make_unique<decode_worker::DecodePart>(setup.limits, identity.incarnation, *loop, receiver_port, metrics);
    fetcher = std::make_unique<worker::KvFetcher>(setup.limits, identity.incarnation, *loop, receiver_port, metrics);
    lender = std::make_unique<worker::KvLender>(setup.limits, engine->shape().layers, *loop, sender_port, metrics);
    if (auto started = start_kv_plane(metrics); !started) { return started; }

    const bool prefills = setup.may_turn || proto::can_prefill(setup.role);
    const bool decodes = setup.may_turn || proto::can_decode(setup.role);
    if (prefills) { loop->attach(worker::Part::prefill, prefill_part.get()); }
    if (decodes) { loop->attach(worker::Part::decode, decode_part.get()); }
    if (decodes) {
        loop->attach(worker::Part::whole, &whole_part);
    }  // a decode worker may prefill a short prompt itself

    if (setup.kv_tiers.any()) {
        auto started = KvTierStack::start({setup.kv_tiers, setup.cluster.key, setup.name, setup.limits}, *engine, *loop,
                                          *clock, metrics);
        if (!started) { return base::pass_on(started); }
        tiers = std::move(*started);
        for (kv_cache::KvCache* slots : tiers->slots()) {
            loop->add_tier(*slots);
        }
        lender->add_tiers(tiers->helper().tiers());
        loop->add_helper(&tiers->helper());  // before the fetcher: what is here need not be asked for elsewhere
    }
    if (pool_prefault) { loop->add_helper(pool_prefault.get()); }
    loop->add_helper(fetcher.get());
    loop->add_helper(lender.get());
    return setup.kv_events.is_on() ? start_kv_events(metrics) : base::Result<void>();
}

base::Result<void> WorkerProcess::Impl::start_kv_events(base::Metrics& metrics) {
    std::vector<kv_cache::KvCache*> caches{cache.get()};
    if (tiers != nullptr) {
        for (kv_cache::KvCache* slots : tiers->slots()) {
            caches.push_back(slots);
        }
    }
    auto started = KvEventStack::start(setup.kv_events, setup.name, caches, setup.kv_tiers.levels(), *clock, metrics);
    if (!started) { return base::pass_on(started); }
    events = std::move(*started);
    loop->add_helper(&events->helper());  // last: it tells what the others have done
    return {};
}

base::Result<void> WorkerProcess::Impl::start_kv_plane(base::Metrics& metrics) {
    auto made = make_kv_transport(setup.kv_plane, setup.listen_host, setup.cluster, identity.incarnation, *clock);
    if (!made) { return base::pass_on(made); }
    transport = std::move(*made);
    identity.kv_address = transport->address();
    const kv_transfer::Identity self{identity.model, identity.numerics_id, identity.incarnation, setup.cluster.key};
    sender = std::make_unique<kv_transfer::KvSender>(
        sender_options, self, engine->layout(), engine->kv_store(), *transport, *clock, &metrics,
        [this](kv_transfer::SenderEvent event) {
            event.key.is_fetch() ? lender->on_event(std::move(event)) : prefill_part->on_event(std::move(event));
        });
    receiver = std::make_unique<kv_transfer::KvReceiver>(
        receiver_options, self, engine->layout(), engine->kv_store(), *transport, *clock, &metrics,
        [this](kv_transfer::ReceiverEvent event) {
            event.key.is_fetch() ? fetcher->on_event(std::move(event)) : decode_part->on_event(std::move(event));
        });
    sender_port.connect(*sender);
    receiver_port.connect(*receiver);
    router = std::make_unique<kv_transfer::KvRouter>(sender.get(), receiver.get());
    return transport->start(*router);
}

sluice::proto::RegisterWorker WorkerProcess::Impl::registration_message() const {
    sluice::proto::RegisterWorker message;
    *message.mutable_header() = worker::make_header(identity);
    *message.mutable_endpoint() = worker::make_endpoint(identity);
    message.set_life_secret(std::to_string(random_id()) + std::to_string(random_id()));
    message.set_role(proto::role_message(setup.role));
    message.set_kv_blocks_total(engine->blocks_total());
    if (engine->keeps_kv()) {
        message.set_block_tokens(setup.engine.block_tokens);
        message.set_kv_bytes_per_token(engine->layout().bytes_per_token());
    }
    message.set_context_tokens(engine->shape().context_tokens);
    message.set_batch_sequences_max(setup.limits.batch_sequences_max);
    message.set_batch_tokens_max(setup.limits.batch_tokens_max);
    message.set_queue_requests_max(setup.limits.queue_requests_max);
    message.set_threads(setup.engine.threads);
    if (!engine->keeps_kv()) { return message; }
    message.set_lends_kv(setup.limits.fetches_max > 0);
    for (std::string& codec : receiver_options.codecs.names()) {
        message.add_kv_codecs(std::move(codec));
    }
    return message;
}

/// On the step thread, which ends only when the main thread asks for it.
void WorkerProcess::Impl::note_device_lost(const base::Error& error) {
    {
        const std::scoped_lock lock(mutex);
        device_lost = base::Error{
            base::ErrorCode::unavailable,
            setup.name + " has lost its device; this process ends and has to be started again: " + error.message};
    }
    ask_to_end();
}

/// Any thread. No new starts, what runs is finished, and everybody who asks is told.
void WorkerProcess::Impl::begin_drain() {
    if (role_turn != nullptr) { role_turn->give_up(); }
    loop->begin_drain();
    board.set_draining();
    server->announce_drain();
}

void WorkerProcess::Impl::stop() {
    if (is_stopped) { return; }
    is_stopped = true;
    if (step_thread.joinable()) {
        begin_drain();
        loop->wait_idle(clock->now() + setup.limits.drain_timeout);
        step_thread = {};  // gives the last final answers
    }
    if (server != nullptr) { server->stop(); }
    if (registration != nullptr) { registration->stop(); }
    if (sender != nullptr) { sender->stop(); }
    if (receiver != nullptr) { receiver->stop(); }
    if (transport != nullptr) { transport->stop(); }
}

WorkerProcess::WorkerProcess() : impl_(std::make_unique<Impl>()) {}

WorkerProcess::~WorkerProcess() {
    impl_->stop();
}

base::Result<std::unique_ptr<WorkerProcess>> WorkerProcess::start(
    WorkerSetup setup, const base::Clock& clock, base::Metrics& metrics,
    const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    auto process = std::unique_ptr<WorkerProcess>(new WorkerProcess());
    process->impl_->setup = std::move(setup);
    process->impl_->clock = &clock;
    if (const auto started = process->impl_->start(metrics, progress); !started) { return base::pass_on(started); }
    return process;
}

std::string WorkerProcess::control_address() const {
    return impl_->identity.control_address;
}

gateway::ReadyParts WorkerProcess::ready_parts() const {
    const bool is_draining = impl_->board.draining();
    const bool is_known = impl_->registration->is_registered();
    return {{.name = "model", .words = impl_->engine->describe()},
            {.name = "requests", .is_ready = !is_draining, .words = is_draining ? "it drains" : "taken"},
            {.name = "scheduler",
             .is_ready = is_known,
             .words = fmt::format("{} {}", is_known ? "knows it, one of" : "none has taken it in of",
                                  joined(impl_->setup.scheduler_addresses))}};
}

std::string WorkerProcess::describe() const {
    const worker::WorkerOptions& limits = impl_->setup.limits;
    if (!impl_->engine->keeps_kv()) {
        return fmt::format("{} at {}: {}; batch {} texts, {} tokens; queue {}", impl_->setup.name,
                           impl_->identity.control_address, impl_->engine->describe(), limits.batch_sequences_max,
                           limits.batch_tokens_max, limits.queue_requests_max);
    }
    const std::string below = impl_->tiers == nullptr ? "" : "; below it " + impl_->tiers->describe();
    return fmt::format("{} at {}: {}; KV {} blocks of {} tokens ({} MiB){}; batch {} sequences, {} tokens; queue {}",
                       impl_->setup.name, impl_->identity.control_address, impl_->engine->describe(),
                       impl_->engine->blocks_total(), impl_->setup.engine.block_tokens,
                       impl_->engine->blocks_total() * impl_->engine->layout().block_bytes() >> 20, below,
                       limits.batch_sequences_max, limits.batch_tokens_max, limits.queue_requests_max);
}

std::uint64_t WorkerProcess::kv_pool_tokens() const {
    return std::uint64_t{impl_->engine->blocks_total()} * impl_->engine->layout().block_tokens();
}

std::optional<base::Error> WorkerProcess::device_lost() const {
    const std::scoped_lock lock(impl_->mutex);
    return impl_->device_lost;
}

void WorkerProcess::drain_and_stop() {
    impl_->stop();
}

}  // namespace cli
