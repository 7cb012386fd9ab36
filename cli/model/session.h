#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cli/model/pull.h"

namespace cli::model {

/// The store, the catalogue and the hub that the environment names, with progress on standard error. Main thread.
class Session {
public:
    /// Error: as store_folder(), load_catalogue(), hub_access_from_environment().
    static base::Result<Session> open(StopAsked stop_asked);

    const Store& store() const { return store_; }
    const std::vector<CatalogueEntry>& catalogue() const { return catalogue_; }

    /// pull() with its progress shown. Error: the same.
    base::Result<Pulled> pull(const PullOptions& options) const;

private:
    Session(Store store, std::vector<CatalogueEntry> catalogue, HubAccess hub, HttpLimits limits, StopAsked stop_asked);

    Store store_;
    std::vector<CatalogueEntry> catalogue_;
    HubAccess hub_;
    HttpLimits limits_;
    StopAsked stop_asked_;
};

}  // namespace cli::model
