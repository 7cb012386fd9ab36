#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/result.h"
#include "gateway/options.h"
#include "gateway/request/models.h"
#include "text/text_process.h"

namespace cli {

/// A model that a process serves: its name in the API and its folder or GGUF file.
struct NamedModel {
    std::string name;
    std::string dir;
    gateway::ModelKind kind = gateway::ModelKind::text;
};

/// The names of models in the API, as flags of a command.
struct NameFlags {
    std::vector<std::string> served_names;  // of the only model; the first is its name, the others are aliases
    std::vector<std::string> aliases;       // as gateway.aliases
};
void add_name_flags(CLI::App& app, NameFlags& names);
/// The first of --served-name; empty: none was given.
std::string first_name(const std::vector<std::string>& served_names);
/// Adds the names that the flags give to those of the settings.
void add_aliases(const NameFlags& names, gateway::GatewayOptions& options);

/// The name a model is served under: the flag, else `gateway.model` of the settings, else the last part of the folder's
/// path, or the name of the GGUF file without its suffix.
std::string served_name(const std::string& flag, const std::string& setting, const std::string& model_dir);

/// What `--model MODEL` or `--model NAME=MODEL` mean, given once or several times. A path that holds a '=' is taken
/// as it is where it exists. `flag` (--served-name) and `setting` (gateway.model) name the only model; several are
/// named by NAME, or by their folder; `own_names` has what a path's model is called where the path does not say it.
/// Error: invalid_argument: an empty name or folder, or a name from the flag for several models.
base::Result<std::vector<NamedModel>> read_models(const std::vector<std::string>& models, const std::string& flag,
                                                  const std::string& setting,
                                                  const std::map<std::string, std::string>& own_names = {});

/// What `--encoder MODEL` or `--encoder NAME=MODEL` mean, given any number of times: as read_models() for several.
base::Result<std::vector<NamedModel>> read_encoders(const std::vector<std::string>& encoders,
                                                    const std::map<std::string, std::string>& own_names = {});

std::vector<std::string> names_of(const std::vector<NamedModel>& models);
/// "a, b", for people.
std::string joined(const std::vector<std::string>& names);

/// Section `text`: what a model's files and the texts of requests may cost.
text::TextProcessOptions read_text_config(base::Config& config);

/// The text side of each, read from its folder in a process of its own. Errors of text::ModelText::load.
base::Result<std::vector<gateway::ServedModel>> load_text(const std::vector<NamedModel>& models,
                                                          const text::TextProcessOptions& options);

}  // namespace cli
