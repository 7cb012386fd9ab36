#include "cli/reload.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/log_file.h"
#include "cli/admin_server.h"
#include "cli/lease_access.h"
#include "cli/otlp_exporter.h"
#include "cli/served_models.h"
#include "cli/worker_process.h"
#include "gateway/options.h"
#include "gateway/server.h"
#include "scheduler/options.h"

namespace cli {
namespace {

sigset_t hangup() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    return set;
}

std::map<std::string, std::string, std::less<>> lines_of(std::string_view text) {
    std::map<std::string, std::string, std::less<>> lines;
    while (!text.empty()) {
        const auto end = std::min(text.find('\n'), text.size());
        const std::string_view line = text.substr(0, end);
        const auto colon = std::min(line.find(": "), line.size());
        lines.emplace(line.substr(0, colon), line.substr(std::min(colon + 2, line.size())));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return lines;
}

std::string list_of(const std::vector<std::string>& keys) {
    std::string list;
    for (const std::string& key : keys) {
        list += (list.empty() ? "" : ", ") + key;
    }
    return list;
}

/// Says what has changed. `settings` become those in effect.
base::Result<std::string> reload(const CommonFlags& flags, bool mint, AllSettings& settings,
                                 const Reloader::Apply& apply) {
    auto fresh = read_all_settings(flags, mint);
    if (!fresh) { return base::pass_on(fresh); }
    const std::vector<std::string> changed = changed_keys(settings.merged, fresh->merged);
    std::vector<std::string> taken;
    std::vector<std::string> left;
    for (const std::string& key : changed) {
        (may_change(key) ? taken : left).push_back(key);
    }
    if (apply) {
        if (const auto applied = apply(*fresh); !applied) { return base::pass_on(applied); }
    }
    set_log_level(fresh->log_level);
    // What needs a restart is told again at each reload until it is restarted or taken back.
    if (left.empty()) { settings.merged = fresh->merged; }
    std::string text = taken.empty() ? "nothing that may change has changed" : "in effect now: " + list_of(taken);
    if (!left.empty()) { text += "; needs a restart: " + list_of(left); }
    return text;
}

}  // namespace

std::string read_log_level(base::Config& config, const CommonFlags& flags) {
    const std::string level = config.choice("log.level", "", {"", "trace", "debug", "info", "warn", "error", "off"});
    return level.empty() ? flags.log_level : level;
}

void set_log_level(const std::string& level) {
    const auto known = spdlog::level::from_str(level);
    spdlog::set_level(known == spdlog::level::off && level != "off" ? spdlog::level::info : known);
}

base::Result<AllSettings> read_all_settings(const CommonFlags& flags, bool mint) {
    auto config = read_config(flags);
    if (!config) { return base::pass_on(config); }
    if (const auto cluster = read_cluster(*config, mint); !cluster) { return base::pass_on(cluster); }
    AllSettings settings;
    settings.log_level = read_log_level(*config, flags);
    base::LogFile::read(*config);
    read_admin_keys_file(*config);
    settings.class_rules = scheduler::SchedulerOptions::read(*config).classes;
    read_lease_access(*config);
    auto gateway_options = gateway::GatewayOptions::read(*config);
    read_text_config(*config);
    WorkerSetup worker;
    read_worker_config(*config, worker);
    const auto tracing = TracingOptions::read(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (tracing.is_on()) {
        if (const auto url = traces_url(tracing.otlp_endpoint); !url) { return base::pass_on(url); }
    }
    if (const auto files = gateway::check_files(gateway_options); !files) { return base::pass_on(files); }
    if (const auto cors = gateway::Cors::make(gateway_options.cors_origins); !cors) { return base::pass_on(cors); }
    settings.gateway = {.slo = std::move(gateway_options.slo), .cors_origins = std::move(gateway_options.cors_origins)};
    settings.merged = config->merged();
    return settings;
}

std::vector<ChangedSetting> changed_settings(std::string_view before, std::string_view after) {
    const auto old_lines = lines_of(before);
    const auto new_lines = lines_of(after);
    std::vector<ChangedSetting> changed;
    for (const auto& [key, value] : old_lines) {
        const auto at = new_lines.find(key);
        const std::string now = at == new_lines.end() ? "-" : at->second;
        if (now != value) { changed.push_back({key, value, now}); }
    }
    for (const auto& [key, value] : new_lines) {
        if (!old_lines.contains(key)) { changed.push_back({key, "-", value}); }
    }
    std::sort(changed.begin(), changed.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    return changed;
}

std::vector<std::string> changed_keys(std::string_view before, std::string_view after) {
    std::vector<std::string> keys;
    for (ChangedSetting& one : changed_settings(before, after)) {
        keys.push_back(std::move(one.key));
    }
    return keys;
}

bool may_change(std::string_view key) {
    if (key == "log.level" || key == "slo.ttft_ms_min" || key == "slo.tpot_ms_min" || key == "slo.default_class" ||
        key == "slo.lossy_kv" || key == "gateway.cors_origins") {
        return true;
    }
    return key.starts_with("slo_classes.");
}

Reloader::Reloader() : ended_(eventfd(0, EFD_CLOEXEC)) {
    CHECK(ended_ >= 0, std::strerror(errno));
    const sigset_t set = hangup();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

Reloader::~Reloader() {
    stop();
    close(ended_);
}

void Reloader::start(const CommonFlags& flags, bool mint, base::Metrics& metrics, Apply apply) {
    auto& valid = metrics.gauge("sluice_config_valid", "1 while the settings as last read are valid");
    const auto count = [&metrics](const char* outcome) -> prometheus::Counter& {
        return metrics.counter("sluice_config_reloads_total", "Times that the settings were read anew",
                               {{"outcome", outcome}});
    };
    auto& applied = count("applied");
    auto& invalid = count("invalid");
    valid.Set(1);
    auto settings = read_all_settings(flags, mint);
    if (!settings) { return spdlog::error("SIGHUP has no effect: {}", settings.error().message); }
    set_log_level(settings->log_level);
    thread_ = std::jthread([this, flags, mint, settings = std::move(*settings), apply = std::move(apply), &valid,
                            &applied, &invalid]() mutable {
        const sigset_t set = hangup();
        const int signals = signalfd(-1, &set, SFD_CLOEXEC);
        CHECK(signals >= 0, std::strerror(errno));
        pollfd waits[] = {{signals, POLLIN, 0}, {ended_, POLLIN, 0}};
        while (true) {
            if (poll(waits, 2, -1) < 0) {
                CHECK(errno == EINTR, std::strerror(errno));
                continue;
            }
            if (waits[1].revents != 0) { break; }
            signalfd_siginfo taken{};
            CHECK(read(signals, &taken, sizeof(taken)) == sizeof(taken), std::strerror(errno));
            const auto result = reload(flags, mint, settings, apply);
            valid.Set(result ? 1 : 0);
            (result ? applied : invalid).Increment();
            if (result) {
                spdlog::info("the settings were read again: {}", *result);
            } else {
                spdlog::error("the settings are invalid, the old ones stay: {}",
                              base::log_safe(result.error().message, 2000));
            }
        }
        close(signals);
    });
}

void Reloader::stop() {
    if (!thread_.joinable()) { return; }
    const std::uint64_t one = 1;
    CHECK(write(ended_, &one, sizeof(one)) == sizeof(one), std::strerror(errno));
    thread_.join();
}

}  // namespace cli
