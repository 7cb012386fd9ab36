#include "cli/model/catalogue.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <optional>

#include "cli/model/built_in.h"
#include "cli/model/digest.h"
#include "cli/model/needed_files.h"
#include "engine/model/read_file.h"

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::size_t kCatalogueBytes = std::size_t{1} << 20;

/// Reads one YAML tree; the first thing that is wrong is kept, with its line.
class Reader {
public:
    explicit Reader(std::string_view file_name) : file_name_(file_name) {}

    const std::optional<base::Error>& problem() const { return problem_; }

    void refuse(const YAML::Node& at, const std::string& why) {
        if (problem_) { return; }
        problem_ = base::Error{ErrorCode::invalid_argument,
                               file_name_ + ":" + std::to_string(at.Mark().line + 1) + ": " + why};
    }
    void allow(const YAML::Node& map, std::initializer_list<std::string_view> keys) {
        if (!map.IsMap()) { return refuse(map, "a section is expected"); }
        for (const auto& pair : map) {
            const std::string key = pair.first.Scalar();
            if (std::find(keys.begin(), keys.end(), key) == keys.end()) { refuse(pair.first, "unknown key " + key); }
        }
    }
    std::string text(const YAML::Node& map, const char* key) {
        const YAML::Node node = map.IsMap() ? map[key] : YAML::Node(YAML::NodeType::Undefined);
        if (!node || !node.IsScalar() || node.Scalar().empty()) {
            refuse(map, std::string(key) + " is missing");
            return {};
        }
        return node.Scalar();
    }
    std::uint64_t count(const YAML::Node& map, const char* key) {
        const std::string digits = text(map, key);
        std::uint64_t value = 0;
        for (const char digit : digits) {
            if (digit < '0' || digit > '9' || digits.size() > 18) {
                refuse(map, std::string(key) + " is no number of bytes");
                return 0;
            }
            value = 10 * value + static_cast<std::uint64_t>(digit - '0');
        }
        return value;
    }
    /// The list at a key, which must have something in it.
    YAML::Node list(const YAML::Node& map, const char* key) {
        const YAML::Node node = map.IsMap() ? map[key] : YAML::Node(YAML::NodeType::Undefined);
        if (!node || !node.IsSequence() || node.size() == 0) {
            refuse(map, std::string(key) + " must be a list with something in it");
            return YAML::Node(YAML::NodeType::Sequence);
        }
        return node;
    }

private:
    std::string file_name_;
    std::optional<base::Error> problem_;
};

CatalogueFile read_file_entry(Reader& reader, const YAML::Node& node) {
    reader.allow(node, {"path", "bytes", "sha256"});
    const CatalogueFile file{reader.text(node, "path"), reader.count(node, "bytes"), reader.text(node, "sha256")};
    if (const auto good = check_inner_path(file.path); !good) { reader.refuse(node, good.error().message); }
    if (!is_sha256(file.sha256)) { reader.refuse(node, "sha256 must be 64 lower-case hexadecimal digits"); }
    return file;
}

Place read_place(Reader& reader, const YAML::Node& node) {
    reader.allow(node, {"hub", "packages", "bytes"});
    if (node.IsMap() && node["hub"]) {
        const auto hub = parse_hub_source(reader.text(node, "hub"));
        if (!hub || !hub->file.empty()) {
            reader.refuse(node, "hub must be ORG/REPO@REVISION");
            return HubSource{};
        }
        return *hub;
    }
    PackagePlace place{{}, reader.count(node, "bytes")};
    for (const YAML::Node& text : reader.list(node, "packages")) {
        const auto part = parse_package_part(text.IsScalar() ? text.Scalar() : "");
        if (!part || part->member.empty()) {
            reader.refuse(text, "a package is PACKAGE==VERSION/MEMBER[!/INNER]");
            return place;
        }
        place.parts.push_back(*part);
    }
    return place;
}

CatalogueEntry read_entry(Reader& reader, const std::string& name, const YAML::Node& node) {
    reader.allow(node, {"title", "licence", "home", "files", "places"});
    CatalogueEntry entry{name, reader.text(node, "title"), reader.text(node, "licence"), reader.text(node, "home"), {},
                         {}};
    if (const auto good = check_name(name); !good) { reader.refuse(node, good.error().message); }
    std::vector<std::string> paths;
    for (const YAML::Node& file : reader.list(node, "files")) {
        entry.files.push_back(read_file_entry(reader, file));
        paths.push_back(entry.files.back().path);
    }
    for (const YAML::Node& place : reader.list(node, "places")) {
        entry.places.push_back(read_place(reader, place));
    }
    if (const auto whole = entry_of(paths); !whole) { reader.refuse(node, whole.error().message); }
    return entry;
}

}  // namespace

std::uint64_t CatalogueEntry::bytes() const {
    std::uint64_t sum = 0;
    for (const CatalogueFile& file : files) {
        sum += file.bytes;
    }
    return sum;
}

Result<std::vector<CatalogueEntry>> parse_catalogue(std::string_view yaml, std::string_view file_name) {
    Reader reader(file_name);
    std::vector<CatalogueEntry> catalogue;
    try {
        const YAML::Node tree = YAML::Load(std::string(yaml));
        if (!tree.IsMap()) { reader.refuse(tree, "models by name are expected"); }
        for (const auto& pair : tree) {
            catalogue.push_back(read_entry(reader, pair.first.Scalar(), pair.second));
        }
    } catch (const YAML::Exception& error) {
        return base::fail(ErrorCode::invalid_argument, std::string(file_name) + ": " + error.what());
    }
    if (reader.problem()) { return tl::unexpected(*reader.problem()); }
    return catalogue;
}

Result<std::vector<CatalogueEntry>> load_catalogue() {
    const char* path = std::getenv("SLUICE_CATALOGUE");
    if (path == nullptr || *path == '\0') { return parse_catalogue(built_in_catalogue(), "models/catalogue.yaml"); }
    const auto text = engine::read_file(path, kCatalogueBytes);
    if (!text) { return base::pass_on(text, "SLUICE_CATALOGUE"); }
    return parse_catalogue(*text, path);
}

const CatalogueEntry* find_entry(const std::vector<CatalogueEntry>& catalogue, std::string_view name) {
    const auto at =
        std::find_if(catalogue.begin(), catalogue.end(), [&](const auto& entry) { return entry.name == name; });
    return at == catalogue.end() ? nullptr : &*at;
}

std::vector<PackagePart> parts_of(const PackagePlace& place, std::string_view path) {
    constexpr std::string_view kMark = "{path}";
    std::vector<PackagePart> parts = place.parts;
    for (PackagePart& part : parts) {
        for (std::string* text : {&part.member, &part.inner}) {
            if (const auto at = text->find(kMark); at != std::string::npos) { text->replace(at, kMark.size(), path); }
        }
    }
    return parts;
}

std::string describe(const Place& place) {
    if (const auto* hub = std::get_if<HubSource>(&place)) { return format_source(*hub); }
    std::string text = "pip:";
    std::string last;
    for (const PackagePart& part : std::get<PackagePlace>(place).parts) {
        const std::string package = part.package + "==" + part.version;
        if (package != last) { text += (last.empty() ? "" : "+") + package; }
        last = package;
    }
    return text;
}

}  // namespace cli::model
