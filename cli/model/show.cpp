#include "cli/model/show.h"

#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/gguf_model.h"
#include "engine/model/checkpoint.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"

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

/// Memory that can still be taken without swapping; 0 when the system does not say.
std::uint64_t memory_available() {
    std::ifstream file("/proc/meminfo");
    for (std::string word; file >> word;) {
        std::uint64_t kib = 0;
        if (word == "MemAvailable:" && file >> kib) { return kib * 1024; }
    }
    return 0;
}

/// What loading the model on the CPU takes, in the formats that `auto` stands for.
std::string describe_memory(const fs::path& path, const base::ModelShape& shape) {
    const auto checkpoint = engine::Checkpoint::open(path.string());
    if (!checkpoint) { return line("cannot run", checkpoint.error().message); }
    engine::PackingPlan plan = engine::plan_packing(shape, engine::WeightFormat::f32);
    if (const auto good = engine::check_tensors(*checkpoint, plan); !good) {
        return line("cannot run", good.error().message);
    }
    const engine::WeightFormat format = engine::stored_format(*checkpoint, plan);
    plan = engine::plan_packing(shape, format);
    const bool is_f32 = format == engine::WeightFormat::f32;
    const std::uint64_t kv_bytes = shape.kv_elements_per_token() * (is_f32 ? 4 : 2);
    std::string text = line("weights", fmt::format("{} on disk, {} in memory ({})", format_bytes(checkpoint->bytes()),
                                                   format_bytes(plan.file_bytes), engine::name_of(format)));
    text += line("KV", fmt::format("{} bytes a token ({})", grouped(kv_bytes), is_f32 ? "f32" : "bf16"));
    const std::uint64_t available = memory_available();
    if (available == 0) { return text; }
    if (available <= plan.file_bytes) {
        return text + line("fits", fmt::format("not now: {} of memory are available", format_bytes(available)));
    }
    const std::uint64_t tokens = (available - plan.file_bytes) / kv_bytes;
    return text + line("fits", fmt::format("{} tokens of KV beside the weights in the {} that are available: {}",
                                           grouped(tokens), format_bytes(available),
                                           tokens >= shape.context_tokens ? "a whole context and more"
                                                                          : "less than a whole context"));
}

/// What the engine makes of a model.
std::string describe_shape(const fs::path& path) {
    const auto shape = engine::read_model_config(path.string());
    if (!shape) { return line("cannot run", shape.error().message); }
    std::string text =
        line("architecture", fmt::format("{}, {} layers, {} wide, {} query and {} KV heads of {}, vocabulary {}",
                                         shape->architecture, shape->layers, grouped(shape->hidden), shape->heads_q,
                                         shape->heads_kv, shape->head_dim, grouped(shape->vocabulary)));
    text += line("parameters", fmt::format("{:.1f} million", static_cast<double>(shape->parameters()) / 1e6));
    text += line("context", grouped(shape->context_tokens) + " tokens");
    return text + describe_memory(path, *shape);
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
    std::string text = manifest.name + "\n" + describe_shape(model.path());
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
    std::string text = given + "\n" + describe_shape(path);
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
