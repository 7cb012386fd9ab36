#include "cli/model/show.h"

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/gguf_model.h"
#include "base/host_memory.h"
#include "cli/model/needs.h"
#include "engine/engine.h"
#include "engine/host_fit.h"
#include "engine/model/encoder_config.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

std::string line(const std::string& what, const std::string& says) {
    return fmt::format("  {:<13} {}\n", what, says);
}

/// 49152 as "49,152".
std::string grouped(std::uint64_t number) {
    std::string digits = std::to_string(number);
    for (std::size_t at = digits.size(); at > 3; at -= 3) {
        digits.insert(at - 3, ",");
    }
    return digits;
}

/// What the engine makes of a sentence encoder.
std::string describe_encoder(const fs::path& path) {
    const auto needs = engine::inspect_encoder(path.string());
    if (!needs) { return line("cannot run", needs.error().message); }
    const engine::EncoderShape& shape = needs->shape;
    const base::ModelShape& inner = shape.transformer;
    std::string text = line("architecture", fmt::format("{} (sentence encoder), {} layers, {} wide, {} heads of {}, "
                                                        "vocabulary {}",
                                                        inner.architecture, inner.layers, grouped(inner.hidden),
                                                        inner.heads_q, inner.head_dim, grouped(inner.vocabulary)));
    text += line("vectors", fmt::format("{} wide, {}{}", grouped(inner.hidden),
                                        shape.pooling == engine::SentencePooling::mean ? "the mean of all tokens"
                                                                                       : "of the first token",
                                        shape.normalize ? ", normalised" : ""));
    text += line("context", grouped(inner.context_tokens) + " tokens");
    return text + line("weights", fmt::format("{} on disk, {} in memory ({})", format_bytes(needs->checkpoint_bytes),
                                              format_bytes(needs->weight_bytes), engine::name_of(needs->weights)));
}

/// What the engine makes of a model.
std::string describe_engine(const fs::path& path) {
    if (const auto architecture = engine::read_architecture(path.string());
        architecture && engine::is_encoder(*architecture)) {
        return describe_encoder(path);
    }
    engine::EngineOptions options;
    options.model_dir = path.string();
    options.device = "host";
    const auto needs = engine::inspect_model(options);
    if (!needs) { return line("cannot run", needs.error().message); }
    std::string text;
    for (const auto& [what, says] : describe_needs(*needs, base::available_host_memory())) {
        text += line(what, says);
    }
    return text;
}

std::string describe_files(const std::vector<FileRecord>& files) {
    std::uint64_t bytes = 0;
    std::string text;
    for (const FileRecord& file : files) {
        bytes += file.bytes;
        text += fmt::format("    {:<44} {:>9}  {}\n", file.path, format_bytes(file.bytes), file.sha256);
    }
    return line("on disk",
                fmt::format("{} in {} {}", format_bytes(bytes), files.size(), files.size() == 1 ? "file" : "files")) +
           text;
}

}  // namespace

std::string describe_stored(const StoredModel& model) {
    const Manifest& manifest = model.manifest;
    std::string text = manifest.name + "\n" + describe_engine(model.path());
    text += line("licence", manifest.licence.empty() ? "not said" : manifest.licence);
    text += line("source",
                 manifest.source == manifest.origin ? manifest.origin : manifest.source + ", from " + manifest.origin);
    text += line("pulled", format_utc(manifest.pulled_unix_s));
    text += line("path", model.path().string());
    return text + describe_files(manifest.files);
}

std::string describe_offer(const CatalogueEntry& entry) {
    std::string text = entry.name + " (not pulled yet: sluice model pull " + entry.name + ")\n";
    text += line("what", entry.title);
    text += line("licence", entry.licence);
    text += line("home", entry.home);
    for (const Place& place : entry.places) {
        text += line("from", describe(place));
    }
    std::vector<FileRecord> files;
    for (const CatalogueFile& file : entry.files) {
        files.push_back({file.path, file.bytes, file.sha256});
    }
    return text + describe_files(files);
}

Result<std::string> describe_path(const std::string& given) {
    const fs::path path(given);
    std::error_code error;
    std::string text = given + "\n" + describe_engine(path);
    std::uint64_t bytes = 0;
    std::size_t count = 0;
    if (fs::is_directory(path, error)) {
        if (!fs::exists(path / "config.json", error)) {
            return base::fail(ErrorCode::not_found, given + " holds no model: it has no config.json");
        }
        for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
            std::error_code ignored;
            if (!at->is_regular_file(ignored)) { continue; }
            bytes += at->file_size(ignored);
            ++count;
        }
    } else if (base::is_gguf(path)) {
        bytes = fs::file_size(path, error);
        count = 1;
    } else {
        return base::fail(ErrorCode::not_found, given + " is neither a model's folder nor a GGUF file");
    }
    return text +
           line("on disk", fmt::format("{} in {} {}", format_bytes(bytes), count, count == 1 ? "file" : "files"));
}

}  // namespace cli::model
