#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "cli/model/catalogue.h"
#include "cli/model/download.h"
#include "cli/model/hub.h"
#include "cli/model/store.h"

namespace cli::model {

struct PullOptions {
    Source source;
    std::string name{};    // in the store; empty: default_name()
    std::string sha256{};  // of the one file of an address or of joined parts; empty: not known
};

/// What a pull works with; borrowed.
struct PullWorld {
    const Store& store;
    const std::vector<CatalogueEntry>& catalogue;
    const HubAccess& hub;
    const HttpLimits& limits;
    const base::Clock& clock;
    Progress& progress;
    const StopAsked& stop_asked;
    RetryPolicy retry = {};
    std::chrono::seconds lock_patience = std::chrono::hours(6);
};

struct Pulled {
    StoredModel model;
    bool was_there = false;
};

/// Brings a model into the store, or finds it there. All files are fetched, checked and written to the disk before the
/// model appears. What an interruption leaves is gone on with the next time. The places of a catalogue's model are
/// tried in order; each that fails is told to the progress. Error: invalid_argument; not_found for an unknown name;
/// failed_precondition when another source has that name; resource_exhausted when the disk has no room, with the
/// numbers; cancelled; and those of the source.
base::Result<Pulled> pull(const PullOptions& options, const PullWorld& world);

}  // namespace cli::model
