#include "net/ucx.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/seal.h"
#include "net/ucx_environment.h"
#include "net/ucx_transport.h"

namespace net {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

constexpr unsigned kMessageId = 1;  // the one active message that we use

std::uint64_t random_name() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) | device();
}

/// What UCX may use. Between processes of one host shared memory carries its wire-up, too. POSIX segments alone report
/// dead peers; System V ones are there for hosts whose /dev/shm is too small.
constexpr const char* kSharedMemory = "posix,sysv,cma,self";

/// Settings of ours that overrule the environment. Error: unavailable.
Result<void> choose_networks(ucp_config_t& config, const UcxOptions& options) {
    const bool is_local = options.net_devices.empty();
    const auto set = [&config](const char* name, const char* value) -> Result<void> {
        const ucs_status_t status = ucp_config_modify(&config, name, value);
        if (status == UCS_OK) { return {}; }
        return fail(ErrorCode::unavailable, describe((std::string("UCX_") + name + "=" + value).c_str(), status));
    };
    if (is_local) { return set("TLS", kSharedMemory); }
    if (!options.transports.empty()) {
        if (auto chosen = set("TLS", options.transports.c_str()); !chosen) { return chosen; }
    }
    return set("NET_DEVICES", options.net_devices.c_str());
}

}  // namespace

std::string describe(const char* what, ucs_status_t status) {
    return std::string(what) + ": " + ucs_status_string(status);
}

const char* ucx_version() {
    return ucp_get_version_string();
}

Result<std::unique_ptr<Transport>> make_ucx_transport(const UcxOptions& options, const base::Clock& clock) {
    prepare_ucx_environment();
    restore_ucx_environment(options.environment);
    ucp_config_t* config = nullptr;
    ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
    if (status != UCS_OK) { return fail(ErrorCode::unavailable, describe("ucp_config_read", status)); }
    if (auto chosen = choose_networks(*config, options); !chosen) {
        ucp_config_release(config);
        return base::pass_on(chosen);
    }
    ucp_params_t context_params{};
    context_params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
    context_params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
    context_params.mt_workers_shared = 0;
    ucp_context_h context = nullptr;
    status = ucp_init(&context_params, config, &context);
    ucp_config_release(config);
    if (status != UCS_OK) { return fail(ErrorCode::unavailable, describe("ucp_init", status)); }

    ucp_worker_params_t worker_params{};
    worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
    // Made here, used by one thread that is not this one: in single mode UCX 1.18 and newer stop the process for that.
    worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
    ucp_worker_h worker = nullptr;
    status = ucp_worker_create(context, &worker_params, &worker);
    if (status != UCS_OK) {
        ucp_cleanup(context);
        return fail(ErrorCode::unavailable, describe("ucp_worker_create", status));
    }
    ucp_worker_attr_t attributes{};
    attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS | UCP_WORKER_ATTR_FIELD_MAX_AM_HEADER;
    status = ucp_worker_query(worker, &attributes);
    if (status != UCS_OK) {
        ucp_worker_destroy(worker);
        ucp_cleanup(context);
        return fail(ErrorCode::unavailable, describe("ucp_worker_query", status));
    }
    std::string worker_address(reinterpret_cast<const char*>(attributes.address), attributes.address_length);
    ucp_worker_release_address(worker, attributes.address);
    auto transport = std::make_unique<UcxTransport>(options, clock, context, worker, std::move(worker_address),
                                                    attributes.max_am_header);
    if (auto prepared = transport->prepare(); !prepared) { return base::pass_on(prepared); }
    return transport;
}

UcxTransport::UcxTransport(UcxOptions options, const base::Clock& clock, ucp_context_h context, ucp_worker_h worker,
                           std::string worker_address, std::size_t header_bytes_limit)
    : options_(std::move(options)),
      clock_(clock),
      context_(context),
      worker_(worker),
      self_(base::raw(options_.life) == 0 ? random_name() : base::raw(options_.life)),
      address_(base::seal_address(options_.key, base::Incarnation{self_}, worker_address)),
      header_bytes_limit_(header_bytes_limit) {}

Result<void> UcxTransport::prepare() {
    const std::size_t header_bytes = sizeof(UcxPrefix) + std::max(options_.limits.header_bytes_max, address_.size());
    if (header_bytes > header_bytes_limit_) {
        return fail(ErrorCode::unavailable, "UCX carries headers of " + std::to_string(header_bytes_limit_) +
                                                " bytes, " + std::to_string(header_bytes) + " are needed");
    }
    // Before the address is known to anybody, else early messages are dropped.
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kMessageId;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = &UcxTransport::on_message;
    handler.arg = this;
    ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &handler);
    if (status != UCS_OK) { return fail(ErrorCode::unavailable, describe("ucp_worker_set_am_recv_handler", status)); }
    status = ucp_worker_get_efd(worker_, &event_descriptor_);
    if (status != UCS_OK) { return fail(ErrorCode::unavailable, describe("ucp_worker_get_efd", status)); }
    return {};
}

UcxTransport::~UcxTransport() {
    stop();
    ucp_worker_destroy(worker_);
    ucp_cleanup(context_);
}

Result<void> UcxTransport::start(Handler& handler) {
    const std::scoped_lock lock(mutex_);
    CHECK(handler_ == nullptr, "start() is called once");
    if (stop_requested_) { return fail(ErrorCode::unavailable, "transport has stopped"); }
    handler_ = &handler;
    is_running_ = true;
    thread_ = std::jthread([this] { run(); });
    return {};
}

/// False when too many commands wait. Closing is bounded by the peers and always fits.
bool UcxTransport::push(Command command) {
    if (commands_.size() >= options_.commands_max && !std::holds_alternative<Close>(command)) { return false; }
    commands_.push_back(std::move(command));
    ucp_worker_signal(worker_);  // safe from any thread
    return true;
}

Result<PeerId> UcxTransport::connect(const std::string& address) {
    const std::scoped_lock lock(mutex_);
    if (!is_running_ || stop_requested_) { return fail(ErrorCode::unavailable, "transport is not running"); }
    if (const auto known = by_address_.find(address); known != by_address_.end()) { return known->second; }
    if (address.size() + sizeof(UcxPrefix) > header_bytes_limit_) {
        return fail(ErrorCode::invalid_argument, "not a UCX address: " + std::to_string(address.size()) + " bytes");
    }
    if (const auto opened = base::open_address(options_.key, address); !opened) { return base::pass_on(opened); }
    if (live_.size() >= options_.peers_max) {
        return fail(ErrorCode::resource_exhausted, std::to_string(options_.peers_max) + " peers already");
    }
    const PeerId peer{++peers_minted_};
    if (!push(Connect{peer, address})) { return fail(ErrorCode::resource_exhausted, "too many commands wait"); }
    live_.insert(peer);
    by_address_[address] = peer;
    return peer;
}

Result<void> UcxTransport::send(PeerId peer, Message message, base::TimePoint deadline, Completion done) {
    if (message.header.size() > options_.limits.header_bytes_max ||
        message.payload.bytes.size() > options_.limits.payload_bytes_max) {
        return fail(ErrorCode::invalid_argument, "message of " + std::to_string(message.header.size()) + " + " +
                                                     std::to_string(message.payload.bytes.size()) +
                                                     " bytes is too long");
    }
    UcxPrefix prefix{};
    prefix.kind = static_cast<std::uint16_t>(raw(message.kind));
    prefix.type = UcxPrefix::Type::message;
    auto send = std::make_unique<Send>();
    send->transport = this;
    send->header.resize(sizeof prefix);
    std::memcpy(send->header.data(), &prefix, sizeof prefix);
    send->header += message.header;
    send->payload = std::move(message.payload);
    send->deadline = deadline;
    send->done = std::move(done);

    const std::scoped_lock lock(mutex_);
    if (!is_running_ || stop_requested_ || !live_.contains(peer)) {
        return fail(ErrorCode::unavailable, "peer " + std::to_string(raw(peer)) + " is gone");
    }
    if (posted_ >= options_.sends_inflight_max) {
        return fail(ErrorCode::resource_exhausted, std::to_string(posted_) + " sends are under way");
    }
    if (!push(Post{peer, std::move(send)})) { return fail(ErrorCode::resource_exhausted, "too many commands wait"); }
    ++posted_;
    return {};
}

void UcxTransport::disconnect(PeerId peer) {
    const std::scoped_lock lock(mutex_);
    if (!live_.contains(peer)) { return; }
    push(Close{peer});
}

void UcxTransport::stop() {
    {
        const std::scoped_lock lock(mutex_);
        stop_requested_ = true;
        if (!is_running_) { return; }
        ucp_worker_signal(worker_);
    }
    if (thread_.joinable()) { thread_.join(); }
    const std::scoped_lock lock(mutex_);
    is_running_ = false;
}

}  // namespace net
