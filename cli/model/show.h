#pragma once

#include <string>

#include "base/result.h"
#include "cli/model/catalogue.h"
#include "cli/model/store.h"

namespace cli::model {

/// Lines for people about a model: what it is, what it needs, where it comes from. What cannot be read of it is said in
/// the place of the figures.
std::string describe_stored(const StoredModel& model);
/// The same of a model that the catalogue offers and that is not there yet.
std::string describe_offer(const CatalogueEntry& entry);
/// The same of a folder or a file. Error: not_found when it holds no model.
base::Result<std::string> describe_path(const std::string& path);

}  // namespace cli::model
