#include "cli/model/hub.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>

#include "cli/model/digest.h"

namespace cli::model {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kListingBytes = std::size_t{16} << 20;
constexpr std::size_t kFiles = 20'000;

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::string() : std::string(value);
}

std::string text_at(const json::value& value, const char* pointer) {
    boost::system::error_code none;
    const json::value* at = value.find_pointer(pointer, none);
    return at != nullptr && at->is_string() ? std::string(at->get_string()) : std::string();
}

std::optional<std::uint64_t> count_at(const json::value& value, const char* pointer) {
    boost::system::error_code none;
    const json::value* at = value.find_pointer(pointer, none);
    if (at == nullptr || !at->is_int64() || at->get_int64() < 0) { return std::nullopt; }
    return static_cast<std::uint64_t>(at->get_int64());
}

bool is_sha1(std::string_view text) {
    return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

/// Empty when the hub says nothing that the bytes could be held against.
std::optional<HubFile> read_file_of(const json::value& sibling) {
    HubFile file{.path = text_at(sibling, "/rfilename")};
    const auto large = count_at(sibling, "/lfs/size");
    const auto bytes = large ? large : count_at(sibling, "/size");
    const std::string sha256 = text_at(sibling, "/lfs/sha256");
    const std::string sha1 = text_at(sibling, "/blobId");
    if (is_sha256(sha256)) {
        file.sha256 = sha256;
    } else if (is_sha1(sha1)) {
        file.git_sha1 = sha1;
    }
    if (!bytes || (file.sha256.empty() && file.git_sha1.empty())) { return std::nullopt; }
    file.bytes = *bytes;
    return file;
}

}  // namespace

Result<HubAccess> hub_access_from_environment() {
    HubAccess access;
    if (const std::string endpoint = environment("HF_ENDPOINT"); !endpoint.empty()) { access.endpoint = endpoint; }
    while (access.endpoint.ends_with('/')) {
        access.endpoint.pop_back();
    }
    if (const auto parts = parse_url(access.endpoint); !parts) { return base::pass_on(parts, "HF_ENDPOINT"); }
    access.token = environment("HF_TOKEN");
    if (access.token.find_first_of("\r\n") != std::string::npos) {
        return base::fail(ErrorCode::invalid_argument, "HF_TOKEN has a line end in it");
    }
    const std::string offline = environment("HF_HUB_OFFLINE");
    access.is_offline = !offline.empty() && offline != "0";
    return access;
}

Result<HubListing> parse_hub_listing(std::string_view text) {
    const auto refuse = [](const std::string& why) {
        return base::fail(ErrorCode::data_loss, "the hub's listing " + why);
    };
    boost::system::error_code error;
    const json::value value = json::parse(text, error);
    if (error || !value.is_object()) { return refuse("is not a JSON object"); }
    HubListing listing{.commit = text_at(value, "/sha"), .licence = text_at(value, "/cardData/license"), .files = {}};
    if (!is_sha1(listing.commit)) { return refuse("names no commit"); }
    const json::value* siblings = value.get_object().if_contains("siblings");
    if (siblings == nullptr || !siblings->is_array()) { return refuse("has no files"); }
    if (siblings->get_array().size() > kFiles) {
        return refuse("has " + std::to_string(siblings->get_array().size()) + " files");
    }
    for (const json::value& sibling : siblings->get_array()) {
        const std::string path = text_at(sibling, "/rfilename");
        if (!check_inner_path(path)) { continue; }  // .gitattributes and worse
        auto file = read_file_of(sibling);
        if (!file) { return refuse("says neither length nor hash of " + path); }
        listing.files.push_back(std::move(*file));
    }
    return listing;
}

Result<HubListing> list_hub(const HubSource& source, const HubAccess& access, Fetch& fetch) {
    const std::string url =
        access.endpoint + "/api/models/" + source.repo + "/revision/" + escape_path(source.revision) + "?blobs=true";
    const auto text = get_text(
        url, access.token, kListingBytes,
        [&](const HttpAnswer& answer) { return explain_hub_status(answer, source, access); }, fetch);
    if (!text) { return base::pass_on(text); }
    return parse_hub_listing(*text);
}

std::string hub_file_url(const HubAccess& access, const std::string& repo, const std::string& commit,
                         const std::string& path) {
    return access.endpoint + "/" + repo + "/resolve/" + commit + "/" + escape_path(path);
}

base::Error explain_hub_status(const HttpAnswer& answer, const HubSource& source, const HubAccess& access) {
    const std::string said = describe_status(answer);
    const std::string card = access.endpoint + "/" + source.repo;
    switch (answer.head.status) {
        case 401:
            return {ErrorCode::unauthenticated,
                    source.repo + " is not there, or only for those who are known: " +
                        (access.token.empty() ? "set HF_TOKEN" : "HF_TOKEN is not accepted") + " (" + said + ")"};
        case 403:
            return {ErrorCode::failed_precondition, "no access to " + source.repo +
                                                        ": its licence may have to be accepted at " + card +
                                                        ", or HF_TOKEN may read too little (" + said + ")"};
        case 404:
            return {ErrorCode::not_found, "there is no " + source.repo + " at revision " + source.revision +
                                              ", or not that file (" + said + ")"};
        case 429:
            return {ErrorCode::resource_exhausted,
                    said + ": too many requests" +
                        (answer.head.header("retry-after").empty()
                             ? ""
                             : ", try again in " + answer.head.header("retry-after").substr(0, 20) + " s") +
                        (access.token.empty() ? " (with HF_TOKEN more are allowed)" : "")};
        default:
            return {answer.head.status >= 500 ? ErrorCode::unavailable : ErrorCode::failed_precondition, said};
    }
}

}  // namespace cli::model
