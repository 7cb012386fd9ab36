#include "engine/model/checkpoint.h"

#include <sys/stat.h>

#include <boost/json.hpp>
#include <cerrno>
#include <filesystem>
#include <map>
#include <utility>

#include "base/json_place.h"
#include "engine/model/gguf_checkpoint.h"
#include "engine/model/json_text.h"
#include "engine/model/read_file.h"

namespace engine {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kIndexBytesMax = 100'000'000;
constexpr const char* kWhole = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

/// tensor name -> name of its file
Result<std::map<std::string, std::string>> read_index(const std::filesystem::path& path) {
    const auto text = read_file(path, kIndexBytesMax);
    if (!text) { return base::pass_on(text); }
    const auto wrong = [&](const std::string& what) {
        return base::fail(ErrorCode::data_loss, path.string() + ": " + what);
    };
    const auto document = parse_json_object(*text, path.string(), ErrorCode::data_loss);
    if (!document) { return base::pass_on(document); }
    if (const auto twice = base::find_json_duplicate(*text, "weight_map")) {
        return wrong("weight_map has tensor " + twice->key + " twice (" + base::json_place(*text, twice->offset) + ")");
    }
    const json::value* entries = document->if_contains("weight_map");
    if (entries == nullptr || !entries->is_object()) { return wrong("weight_map is missing or not an object"); }
    std::map<std::string, std::string> files;
    for (const auto& [tensor, file] : entries->get_object()) {
        if (!file.is_string()) { return wrong("the file of tensor " + std::string(tensor) + " is not a string"); }
        const std::string name(file.get_string());
        if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
            name.find('\0') != std::string::npos) {
            return wrong("tensor " + std::string(tensor) + " is said to be in '" + name +
                         "', not a file of this folder");
        }
        files.emplace(std::string(tensor), name);
    }
    if (files.empty()) { return wrong("weight_map is empty"); }
    return files;
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& model_dir) {
    const std::filesystem::path dir(model_dir);
    std::error_code ignored;
    Checkpoint checkpoint;
    if (base::is_gguf(dir)) {
        if (auto added = checkpoint.add_gguf(model_dir); !added) { return base::pass_on(added); }
        return checkpoint;
    }
    if (std::filesystem::exists(dir / kWhole, ignored)) {
        auto tensors = checkpoint.add_file((dir / kWhole).string(), kWhole);
        if (!tensors) { return base::pass_on(tensors, model_dir); }
        checkpoint.tensors_ = std::move(*tensors);
        return checkpoint;
    }
    if (!std::filesystem::exists(dir / kIndex, ignored)) {
        return base::fail(ErrorCode::not_found,
                          "neither " + std::string(kWhole) + " nor " + kIndex + " in " + model_dir +
                              " (a GGUF file is named itself; other formats, such as pytorch_model.bin, are not "
                              "read)");
    }
    if (auto added = checkpoint.add_shards(dir); !added) { return base::pass_on(added); }
    return checkpoint;
}

Result<void> Checkpoint::add_shards(const std::filesystem::path& dir) {
    const auto index = read_index(dir / kIndex);
    if (!index) { return base::pass_on(index); }
    std::map<std::string, Tensors> shards;
    for (const auto& [name, file] : *index) {
        if (!shards.contains(file)) {
            auto tensors = add_file((dir / file).string(), file);
            if (!tensors) { return base::pass_on(tensors, dir.string()); }
            shards.emplace(file, std::move(*tensors));
        }
        const Tensors& shard = shards[file];
        const auto found = shard.find(name);
        if (found == shard.end()) {
            return base::fail(ErrorCode::data_loss, dir.string() + ": " + kIndex + " says that tensor " + name +
                                                        " is in " + file + ", but it is not");
        }
        tensors_.emplace(name, found->second);
    }
    std::map<std::string_view, std::string_view> outside;  // of the index: tensor -> its file
    for (const auto& [file, shard] : shards) {
        for (const auto& [name, tensor] : shard) {
            if (index->contains(name)) { continue; }
            const auto [other, is_new] = outside.emplace(name, file);
            if (!is_new) {
                return base::fail(ErrorCode::data_loss, dir.string() + ": tensor " + name + " is in both " +
                                                            std::string(other->second) + " and " + file + ", and " +
                                                            kIndex + " does not say which is meant");
            }
            tensors_.emplace(name, tensor);
        }
    }
    return {};
}

const Tensor* Checkpoint::find(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

namespace {

bool holds(const base::MappedFile& file, std::span<const std::byte> part) {
    return part.data() >= file.bytes().data() && part.data() < file.bytes().data() + file.bytes().size();
}

}  // namespace

std::string Checkpoint::file_of(const Tensor& tensor) const {
    for (const File& file : files_) {
        if (holds(file.mapped, tensor.bytes)) { return file.path; }
    }
    if (gguf_) {
        for (const auto& file : gguf_->files()) {
            if (holds(file.mapped, tensor.bytes)) { return file.path.string(); }
        }
    }
    return {};
}

void Checkpoint::let_go(std::span<const std::byte> part) const {
    for (const File& file : files_) {
        if (holds(file.mapped, part)) { return file.mapped.let_go(part); }
    }
    if (!gguf_) { return; }
    for (const auto& file : gguf_->files()) {
        if (holds(file.mapped, part)) { return file.mapped.let_go(part); }
    }
}

Result<Tensors> Checkpoint::add_file(const std::string& path, std::string_view file_name) {
    if (auto added = add_identity(path); !added) { return base::pass_on(added); }
    auto file = base::MappedFile::open(path);
    if (!file) { return base::pass_on(file); }
    auto tensors = parse_safetensors(file->bytes(), file_name);
    if (!tensors) { return base::pass_on(tensors); }
    for (const auto& [name, tensor] : *tensors) {
        add_identity(name, tensor, file->bytes());
    }
    identity_ += "\n";
    bytes_ += file->bytes().size();
    files_.push_back({.path = path, .mapped = std::move(*file)});
    return tensors;
}

Result<void> Checkpoint::add_gguf(const std::string& path) {
    auto model = base::GgufModel::open(path);
    if (!model) { return base::pass_on(model); }
    const auto shape = gguf_model_shape(*model);
    if (!shape) { return base::pass_on(shape); }
    auto tensors = gguf_tensors(*model, *shape);
    if (!tensors) { return base::pass_on(tensors); }
    tensors_ = std::move(*tensors);
    for (const auto& file : model->files()) {
        if (auto added = add_identity(file.path.string()); !added) { return added; }
        identity_ += "\n";
        bytes_ += file.mapped.bytes().size();
    }
    gguf_.emplace(std::move(*model));
    return {};
}

/// Where the file is and which state of it.
Result<void> Checkpoint::add_identity(const std::string& path) {
    struct ::stat status{};
    if (::stat(path.c_str(), &status) != 0) { return tl::unexpected(system_error("open", path, errno)); }
    const auto add = [&](auto number) { identity_ += std::to_string(number) + " "; };
    std::error_code unresolved;
    const auto canonical = std::filesystem::weakly_canonical(path, unresolved);
    identity_ += (unresolved ? path : canonical.string()) + " ";
    add(status.st_dev);
    add(status.st_ino);
    add(status.st_size);
    add(status.st_mtim.tv_sec);
    add(status.st_mtim.tv_nsec);
    add(status.st_ctim.tv_sec);
    add(status.st_ctim.tv_nsec);
    return {};
}

/// What the file says of a tensor.
void Checkpoint::add_identity(const std::string& name, const Tensor& tensor, std::span<const std::byte> file) {
    identity_ += name + " " + tensor.dtype + format_shape(tensor.shape) + " " +
                 std::to_string(tensor.bytes.data() - file.data()) + " ";
}

}  // namespace engine
