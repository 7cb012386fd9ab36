#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace base {

inline constexpr std::string_view kGgufSuffix = ".gguf";
/// Files that one model may be split into.
inline constexpr std::uint32_t kSplitFilesMax = 1024;

/// `path` ends in `suffix` (lower case), in any case.
bool has_suffix(std::string_view path, std::string_view suffix);

/// "a/model-00002-of-00003.gguf" taken apart, as files of a split model are called.
struct SplitName {
    std::string stem;          // "a/model"
    std::uint32_t number = 0;  // 2; from 1
    std::uint32_t count = 0;   // 3; at most kSplitFilesMax

    /// The path of another of its files; they share what stands behind the number, `suffix`.
    std::string path_of(std::uint32_t other, std::string_view suffix) const;
};

/// Empty: `path`, which ends in `suffix`, is not the name of a part.
std::optional<SplitName> split_name(std::string_view path, std::string_view suffix);

}  // namespace base
