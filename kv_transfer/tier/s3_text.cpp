#include "kv_transfer/tier/s3_text.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

namespace kv_transfer {
namespace {

constexpr std::size_t kCodeBytesMax = 60;

std::string_view trim(std::string_view text) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
        text.remove_prefix(1);
    }
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
        text.remove_suffix(1);
    }
    return text;
}

/// What stands between <name> and </name>, from `at` on; `at` is behind it then.
std::optional<std::string_view> element(std::string_view xml, std::string_view name, std::size_t& at) {
    const std::string open = "<" + std::string(name) + ">";
    const std::string close = "</" + std::string(name) + ">";
    const std::size_t begin = xml.find(open, at);
    if (begin == std::string_view::npos) { return std::nullopt; }
    const std::size_t end = xml.find(close, begin + open.size());
    if (end == std::string_view::npos) { return std::nullopt; }
    at = end + close.size();
    return xml.substr(begin + open.size(), end - begin - open.size());
}

std::optional<std::string_view> element(std::string_view xml, std::string_view name) {
    std::size_t at = 0;
    return element(xml, name, at);
}

std::string unescape(std::string_view text) {
    constexpr std::array<std::pair<std::string_view, char>, 5> kNames = {
        {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&quot;", '"'}, {"&apos;", '\''}}};
    std::string plain;
    while (!text.empty()) {
        const auto* known =
            std::find_if(kNames.begin(), kNames.end(), [&](const auto& name) { return text.starts_with(name.first); });
        plain += known == kNames.end() ? text.front() : known->second;
        text.remove_prefix(known == kNames.end() ? 1 : known->first.size());
    }
    return plain;
}

}  // namespace

base::Result<S3Credentials> parse_s3_credentials(std::string_view text) {
    S3Credentials found;
    bool is_default = true;  // also before the first section
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = trim(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.empty() || line.front() == '#' || line.front() == ';') { continue; }
        if (line.front() == '[') {
            is_default = line == "[default]";
            continue;
        }
        const std::size_t equals = line.find('=');
        if (!is_default || equals == std::string_view::npos) { continue; }
        const std::string_view name = trim(line.substr(0, equals));
        const std::string value(trim(line.substr(equals + 1)));
        if (name == "aws_access_key_id") { found.access_key_id = value; }
        if (name == "aws_secret_access_key") { found.secret_access_key = value; }
        if (name == "aws_session_token") { found.session_token = value; }
    }
    if (found.access_key_id.empty() || found.secret_access_key.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "has no aws_access_key_id and aws_secret_access_key in a section [default]");
    }
    return found;
}

std::optional<S3ListPage> parse_s3_list(std::string_view xml) {
    if (xml.find("<ListBucketResult") == std::string_view::npos) { return std::nullopt; }
    S3ListPage page;
    std::size_t at = 0;
    while (const auto entry = element(xml, "Contents", at)) {
        const auto key = element(*entry, "Key");
        const auto size = element(*entry, "Size");
        if (!key || !size) { return std::nullopt; }
        S3ListPage::Object& object = page.objects.emplace_back();
        object.key = unescape(*key);
        object.modified = element(*entry, "LastModified").value_or(std::string_view());
        const auto [end, error] = std::from_chars(size->data(), size->data() + size->size(), object.bytes);
        if (error != std::errc() || end != size->data() + size->size()) { return std::nullopt; }
    }
    if (element(xml, "IsTruncated") == "true") {
        const auto next = element(xml, "NextContinuationToken");
        if (!next) { return std::nullopt; }
        page.next = unescape(*next);
    }
    return page;
}

std::string s3_error_code(std::string_view xml) {
    return std::string(element(xml, "Code").value_or(std::string_view()).substr(0, kCodeBytesMax));
}

}  // namespace kv_transfer
