#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/model/download.h"
#include "cli/model/source.h"

namespace cli::model {

/// Which hub is asked, and as whom.
struct HubAccess {
    std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; without a slash at the end
    std::string token{};                              // HF_TOKEN
    bool is_offline = false;                          // HF_HUB_OFFLINE
};
/// From the environment. Error: invalid_argument for an endpoint that is no address.
base::Result<HubAccess> hub_access_from_environment();

/// A file of a repository, and what its bytes must hash to: large files have a SHA-256, others git's name.
struct HubFile {
    std::string path{};
    std::uint64_t bytes = 0;
    std::string sha256{};    // empty: see git_sha1
    std::string git_sha1{};  // empty: see sha256
};

/// A repository at one commit.
struct HubListing {
    std::string commit{};   // 40 hexadecimal digits
    std::string licence{};  // as the model's card says it; may be empty
    std::vector<HubFile> files{};
};

/// The hub's JSON about a repository with its files' hashes. Files with names that no model has are left out.
/// Error: data_loss, naming what is missing.
base::Result<HubListing> parse_hub_listing(std::string_view json);

/// Asks for the listing at a revision. Error: unavailable without a network; unauthenticated (401), failed_precondition
/// (403), not_found with what to do; as get_text().
base::Result<HubListing> list_hub(const HubSource& source, const HubAccess& access, Fetch& fetch);

/// Where one file of the repository at that commit is.
std::string hub_file_url(const HubAccess& access, const std::string& repo, const std::string& commit,
                         const std::string& path);

/// What an answer that is no success means for the repository.
base::Error explain_hub_status(const HttpAnswer& answer, const HubSource& source, const HubAccess& access);

}  // namespace cli::model
