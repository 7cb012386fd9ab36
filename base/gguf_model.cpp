#include "base/gguf_model.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <utility>

#include "base/split_name.h"

namespace base {
namespace {

namespace fs = std::filesystem;

/// What stands behind the number of a part; the parts of a model share it.
std::string suffix_of(const fs::path& path) {
    const std::string text = path.string();
    return text.substr(text.size() - kGgufSuffix.size());
}

std::optional<SplitName> part_name(const fs::path& path) {
    if (!has_suffix(path.string(), kGgufSuffix)) { return std::nullopt; }
    return split_name(path.string(), kGgufSuffix);
}

Result<GgufModel::File> open_file(const fs::path& path) {
    auto mapped = MappedFile::open(path);
    if (!mapped) { return pass_on(mapped); }
    auto content = GgufFile::parse(mapped->bytes(), path.string());
    if (!content) { return pass_on(content); }
    return GgufModel::File{path, std::move(*mapped), std::move(*content)};
}

/// A number of the split: `missing` where the key is not there. Error: data_loss where it is no number from 0 on.
Result<std::uint64_t> split_number(const GgufModel::File& file, std::string_view key, std::uint64_t missing) {
    const GgufValue* value = file.content.find(key);
    if (value == nullptr) { return missing; }
    const auto number = value->integer();
    if (!number || *number < 0) {
        return fail(ErrorCode::data_loss, file.path.string() + ": " + std::string(key) + " is " + value->shown());
    }
    return static_cast<std::uint64_t>(*number);
}

/// `file` says that it is part `part` (from 1) of `parts`.
Result<void> check_part(const GgufModel::File& file, std::uint32_t part, std::uint32_t parts) {
    const auto number = split_number(file, "split.no", 0);
    if (!number) { return pass_on(number); }
    const auto count = split_number(file, "split.count", 1);
    if (!count) { return pass_on(count); }
    if (*number + 1 != part || *count != parts) {
        return fail(ErrorCode::data_loss, file.path.string() + " says it is part " + std::to_string(*number + 1) +
                                              " of " + std::to_string(*count) + ", its name says " +
                                              std::to_string(part) + " of " + std::to_string(parts));
    }
    return {};
}

}  // namespace

bool is_gguf(const fs::path& path) {
    if (has_suffix(path.string(), kGgufSuffix)) { return true; }
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) { return false; }
    std::array<char, 4> magic{};
    std::ifstream(path, std::ios::binary).read(magic.data(), magic.size());
    return std::string_view(magic.data(), magic.size()) == "GGUF";
}

std::string gguf_model_name(const fs::path& path) {
    if (const auto part = part_name(path)) { return fs::path(part->stem).filename().string(); }
    return has_suffix(path.string(), kGgufSuffix) ? path.stem().string() : path.filename().string();
}

Result<GgufModel> GgufModel::open(const fs::path& path, Parts parts) {
    auto given = open_file(path);
    if (!given) { return pass_on(given); }
    const auto count = split_number(*given, "split.count", 1);
    if (!count) { return pass_on(count); }
    GgufModel model;
    if (*count <= 1) {
        model.tensors_ = given->content.tensors;
        model.files_.push_back(std::move(*given));
        return model;
    }
    const auto name = part_name(path);
    if (!name || *count > kSplitFilesMax) {
        return fail(ErrorCode::data_loss, path.string() + " is one of " + std::to_string(*count) +
                                              " parts of a model; such files are called NAME-00001-of-0000N.gguf, and "
                                              "there are at most " +
                                              std::to_string(kSplitFilesMax) + " of them");
    }
    if (auto checked = check_part(*given, name->number, name->count); !checked) { return pass_on(checked); }
    const std::uint32_t wanted = parts == Parts::first ? 1 : name->count;
    for (std::uint32_t part = 1; part <= wanted; ++part) {
        if (part == name->number) {
            model.files_.push_back(std::move(*given));
            continue;
        }
        auto file = open_file(name->path_of(part, suffix_of(path)));
        if (!file) {
            return pass_on(file, "part " + std::to_string(part) + " of " + std::to_string(name->count) + " of " +
                                     gguf_model_name(path));
        }
        if (auto checked = check_part(*file, part, name->count); !checked) { return pass_on(checked); }
        model.files_.push_back(std::move(*file));
    }
    for (const File& file : model.files_) {
        for (const auto& [tensor_name, tensor] : file.content.tensors) {
            if (!model.tensors_.emplace(tensor_name, tensor).second) {
                return fail(ErrorCode::data_loss, file.path.string() + ": tensor " + gguf_printable(tensor_name) +
                                                      " is in an earlier part too");
            }
        }
    }
    const auto total = split_number(model.files_.front(), "split.tensors.count", model.tensors_.size());
    if (!total) { return pass_on(total); }
    if (parts == Parts::all && *total != model.tensors_.size()) {
        return fail(ErrorCode::data_loss, path.string() + ": split.tensors.count is " + std::to_string(*total) +
                                              ", the parts have " + std::to_string(model.tensors_.size()) +
                                              " tensors together");
    }
    return model;
}

}  // namespace base
