#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/fleet_desk.h"
#include "gateway/http/ready_parts.h"

namespace cli {

/// Setting `admin.keys_file`.
std::string read_admin_keys_file(base::Config& config);

/// The small HTTP listener of a process for operators: /metrics (and /metrics/vllm, what inference gateways read),
/// /live (the process), /ready (takes work; `?verbose`: what of it is in order), and the fleet page where there is a
/// desk for it. A thread of its own.
class AdminServer {
public:
    using Ready = std::function<gateway::ReadyParts()>;  // none of them: always ready

    /// `clock` and `metrics` are borrowed; `ready` is called on the listener's thread; `before_metrics` when somebody
    /// asks for them, and may be empty. `keys_file`: of API keys; with it metrics, and what is not ready, are told to
    /// those of scope admin alone, whether it is ready to everybody. It is read again when it has changed. Errors: as
    /// gateway::HttpServer::start; invalid_argument (the file of keys).
    static base::Result<std::unique_ptr<AdminServer>> start(const std::string& host, std::uint16_t port,
                                                            bool allow_public, const base::Clock& clock,
                                                            base::Metrics& metrics, Ready ready,
                                                            std::function<void()> before_metrics = {},
                                                            std::unique_ptr<FleetDesk> fleet = nullptr,
                                                            const std::string& keys_file = {});
    ~AdminServer();
    std::uint16_t port() const;

private:
    AdminServer();
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace cli
