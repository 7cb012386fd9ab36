#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace cli::model {

/// models/catalogue.yaml, as it was when the binary was built.
std::string_view built_in_catalogue();

/// The name of the model that is part of the binary: children's stories, 260 thousand parameters.
inline constexpr std::string_view kBuiltInModel = "stories260k";

/// The folder of the built-in model, written to where Sluice keeps packed weights unless it is there already.
/// Error: as the system says.
base::Result<std::string> built_in_model_dir();

}  // namespace cli::model
