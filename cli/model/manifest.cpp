#include "cli/model/manifest.h"

#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>
#include <ctime>
#include <optional>

#include "cli/model/digest.h"
#include "cli/model/source.h"

namespace cli::model {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::Result;

constexpr std::int64_t kForm = 1;

std::optional<std::string> text_at(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || !value->is_string()) { return std::nullopt; }
    return std::string(value->get_string());
}

std::optional<std::int64_t> number_at(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    if (value == nullptr || !value->is_int64() || value->get_int64() < 0) { return std::nullopt; }
    return value->get_int64();
}

std::optional<FileRecord> parse_file(const json::value& value) {
    if (!value.is_object()) { return std::nullopt; }
    const auto path = text_at(value.get_object(), "path");
    const auto bytes = number_at(value.get_object(), "bytes");
    const auto sha256 = text_at(value.get_object(), "sha256");
    if (!path || !bytes || !sha256 || !check_inner_path(*path) || !is_sha256(*sha256)) { return std::nullopt; }
    return FileRecord{*path, static_cast<std::uint64_t>(*bytes), *sha256};
}

}  // namespace

std::uint64_t Manifest::bytes() const {
    std::uint64_t sum = 0;
    for (const FileRecord& file : files) {
        sum += file.bytes;
    }
    return sum;
}

std::string format_manifest(const Manifest& manifest) {
    json::array files;
    for (const FileRecord& file : manifest.files) {
        files.push_back({{"path", file.path}, {"bytes", file.bytes}, {"sha256", file.sha256}});
    }
    const json::object object{{"form", kForm},
                              {"name", manifest.name},
                              {"source", manifest.source},
                              {"origin", manifest.origin},
                              {"licence", manifest.licence},
                              {"entry", manifest.entry},
                              {"pulled_unix_s", manifest.pulled_unix_s},
                              {"files", files}};
    return json::serialize(object) + "\n";
}

Result<Manifest> parse_manifest(std::string_view text) {
    const auto refuse = [](const std::string& why) {
        return base::fail(ErrorCode::data_loss, "the manifest of a stored model " + why);
    };
    boost::system::error_code error;
    const json::value value = json::parse(text, error);
    if (error || !value.is_object()) { return refuse("is not a JSON object"); }
    const json::object& object = value.get_object();
    if (number_at(object, "form") != kForm) { return refuse("has another form than " + std::to_string(kForm)); }
    Manifest manifest;
    for (const auto& [key, field] : {std::pair("name", &manifest.name),
                                     {"source", &manifest.source},
                                     {"origin", &manifest.origin},
                                     {"licence", &manifest.licence},
                                     {"entry", &manifest.entry}}) {
        auto read = text_at(object, key);
        if (!read) { return refuse(std::string("lacks ") + key); }
        *field = std::move(*read);
    }
    const auto pulled = number_at(object, "pulled_unix_s");
    const json::value* files = object.if_contains("files");
    if (!pulled || files == nullptr || !files->is_array()) { return refuse("lacks pulled_unix_s or files"); }
    manifest.pulled_unix_s = *pulled;
    for (const json::value& file : files->get_array()) {
        auto record = parse_file(file);
        if (!record) { return refuse("has a file without path, bytes or sha256"); }
        manifest.files.push_back(std::move(*record));
    }
    if (!check_name(manifest.name)) { return refuse("has no name"); }
    if (!manifest.entry.empty() && !check_inner_path(manifest.entry)) { return refuse("has a bad entry"); }
    return manifest;
}

std::string format_utc(std::int64_t unix_s) {
    const std::time_t seconds = unix_s;
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    std::array<char, 32> text{};
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text.data();
}

std::string format_bytes(std::uint64_t bytes) {
    constexpr std::array<const char*, 5> kUnits = {"kB", "MB", "GB", "TB", "PB"};
    if (bytes < 1000) { return std::to_string(bytes) + " bytes"; }
    double value = static_cast<double>(bytes) / 1000;
    std::size_t unit = 0;
    while (value >= 999.95 && unit + 1 < kUnits.size()) {
        value /= 1000;
        ++unit;
    }
    return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace cli::model
