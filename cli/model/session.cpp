#include "cli/model/session.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "cli/model/progress.h"

namespace cli::model {

using base::ErrorCode;
using base::Result;

namespace {

/// HF_HUB_DOWNLOAD_TIMEOUT, in seconds. Error: invalid_argument.
Result<HttpLimits> limits_from_environment() {
    HttpLimits limits;
    const char* text = std::getenv("HF_HUB_DOWNLOAD_TIMEOUT");
    if (text == nullptr || *text == '\0') { return limits; }
    long seconds = 0;
    for (const char* digit = text; *digit != '\0'; ++digit) {
        seconds = *digit >= '0' && *digit <= '9' && seconds <= 3600 ? 10 * seconds + (*digit - '0') : -1;
        if (seconds < 0) { break; }
    }
    if (seconds < 1 || seconds > 3600) {
        return base::fail(ErrorCode::invalid_argument,
                          "HF_HUB_DOWNLOAD_TIMEOUT is '" + std::string(text) + "', must be seconds from 1 to 3600");
    }
    limits.stall = std::chrono::seconds(seconds);
    return limits;
}

}  // namespace

Session::Session(Store store, std::vector<CatalogueEntry> catalogue, HubAccess hub, HttpLimits limits,
                 StopAsked stop_asked)
    : store_(std::move(store)),
      catalogue_(std::move(catalogue)),
      hub_(std::move(hub)),
      limits_(limits),
      stop_asked_(std::move(stop_asked)) {}

Result<Session> Session::open(StopAsked stop_asked) {
    auto folder = usable_store_folder();
    if (!folder) { return base::pass_on(folder); }
    auto catalogue = load_catalogue();
    if (!catalogue) { return base::pass_on(catalogue); }
    auto hub = hub_access_from_environment();
    if (!hub) { return base::pass_on(hub); }
    const auto limits = limits_from_environment();
    if (!limits) { return base::pass_on(limits); }
    return Session(Store(std::move(*folder)), std::move(*catalogue), std::move(*hub), *limits, std::move(stop_asked));
}

Result<Pulled> Session::pull(const PullOptions& options) const {
    const base::SystemClock clock;
    const std::string name = options.name.empty() ? default_name(options.source) : options.name;
    Progress progress(name, ::isatty(STDERR_FILENO) != 0, clock,
                      [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); });
    return model::pull(options, {.store = store_,
                                 .catalogue = catalogue_,
                                 .hub = hub_,
                                 .limits = limits_,
                                 .clock = clock,
                                 .progress = progress,
                                 .stop_asked = stop_asked_});
}

}  // namespace cli::model
