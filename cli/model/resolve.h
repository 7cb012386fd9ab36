#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/model/session.h"

namespace cli::model {

/// What a `--model` means.
struct ResolvedModel {
    std::string path;  // a folder or a file that exists
    std::string name;  // in the store or the catalogue; empty: it was a path
};

/// Whether a model of the catalogue that is not in the store is pulled.
enum class FirstUse { pull, refuse };

/// An existing file or folder first, then a name of the store, then one of the catalogue, then the built-in model's. A
/// pull is announced on standard error: what, under which licence, how large, from where, and how to choose another.
/// Error: not_found, saying where it was looked for; as pull().
base::Result<ResolvedModel> resolve_model(const std::string& given, FirstUse first_use, const StopAsked& stop_asked);

/// The model where nobody names one.
inline constexpr std::string_view kDefaultModel = "smollm2-135m-instruct";

/// resolve_model() of the default model, pulled at its first use. When it cannot be had, a line on standard error says
/// why and the built-in model is taken. Error: cancelled; as built_in_model_dir().
base::Result<ResolvedModel> resolve_default_model(const StopAsked& stop_asked);

}  // namespace cli::model
