#include "cli/model/resolve.h"

#include <cstdio>
#include <filesystem>

#include "cli/model/built_in.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

Result<ResolvedModel> built_in_model() {
    const auto dir = built_in_model_dir();
    if (!dir) { return base::pass_on(dir); }
    return ResolvedModel{*dir, std::string(kBuiltInModel)};
}

void announce(const CatalogueEntry& entry, const Store& store) {
    std::string places;
    for (const Place& place : entry.places) {
        places += (places.empty() ? "" : " or ") + describe(place);
    }
    std::fprintf(stderr,
                 "%s is used for the first time: %s; licence %s, %s from %s, kept in %s.\n"
                 "Another model: --model with a name of `sluice model list`, a folder or a file.\n",
                 entry.name.c_str(), entry.title.c_str(), entry.licence.c_str(), format_bytes(entry.bytes()).c_str(),
                 places.c_str(), store.folder().c_str());
}

Result<ResolvedModel> resolve_name(const std::string& given, FirstUse first_use, const StopAsked& stop_asked) {
    const auto session = Session::open(stop_asked);
    if (!session) { return base::pass_on(session); }
    const auto found = session->store().find(given);
    if (!found) { return base::pass_on(found); }
    if (*found) { return ResolvedModel{(*found)->path().string(), given}; }
    const CatalogueEntry* entry = find_entry(session->catalogue(), given);
    if (entry == nullptr && given == kBuiltInModel) { return built_in_model(); }
    if (entry == nullptr) {
        return base::fail(ErrorCode::not_found, "there is no file or folder '" + given +
                                                    "', and neither the models in " +
                                                    session->store().folder().string() +
                                                    " nor the catalogue have that name (sluice model list)");
    }
    if (first_use == FirstUse::refuse) {
        return base::fail(ErrorCode::not_found,
                          given + " is not in " + session->store().folder().string() + ": sluice model pull " + given);
    }
    announce(*entry, session->store());
    const auto pulled = session->pull({.source = NamedSource{given}});
    if (!pulled) { return base::pass_on(pulled); }
    return ResolvedModel{pulled->model.path().string(), given};
}

}  // namespace

Result<ResolvedModel> resolve_model(const std::string& given, FirstUse first_use, const StopAsked& stop_asked) {
    std::error_code ignored;
    if (fs::exists(given, ignored)) { return ResolvedModel{given, {}}; }
    if (!check_name(given)) { return base::fail(ErrorCode::not_found, "there is no model at '" + given + "'"); }
    return resolve_name(given, first_use, stop_asked);
}

Result<ResolvedModel> resolve_default_model(const StopAsked& stop_asked) {
    auto resolved = resolve_name(std::string(kDefaultModel), FirstUse::pull, stop_asked);
    if (resolved || resolved.error().code == ErrorCode::cancelled) { return resolved; }
    std::fprintf(
        stderr,
        "sluice: %s could not be had, the built-in %s answers instead (a toy that tells children's stories): %s\n",
        std::string(kDefaultModel).c_str(), std::string(kBuiltInModel).c_str(), resolved.error().message.c_str());
    return built_in_model();
}

}  // namespace cli::model
