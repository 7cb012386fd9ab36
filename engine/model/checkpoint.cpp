#include "engine/model/checkpoint.h"

#include <sys/stat.h>

#include <boost/json.hpp>
#include <cerrno>
#include <filesystem>
#include <map>
#include <utility>

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
    boost::system::error_code parse_error;
    const json::value document = json::parse(*text, parse_error);
    if (parse_error) { return wrong("not valid JSON: " + parse_error.message()); }
    const json::value* entries = document.is_object() ? document.get_object().if_contains("weight_map") : nullptr;
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
    if (std::filesystem::exists(dir / kWhole, ignored)) {
        auto tensors = checkpoint.add_file((dir / kWhole).string(), kWhole);
        if (!tensors) { return base::pass_on(tensors, model_dir); }
        checkpoint.tensors_ = std::move(*tensors);
        return checkpoint;
    }
    if (!std::filesystem::exists(dir / kIndex, ignored)) {
        return base::fail(ErrorCode::not_found,
                          "neither " + std::string(kWhole) + " nor " + kIndex + " in " + model_dir +
                              " (other formats, such as pytorch_model.bin or GGUF, are not read)");
    }
    const auto index = read_index(dir / kIndex);
    if (!index) { return base::pass_on(index); }
    std::map<std::string, Tensors> shards;
    for (const auto& [name, file] : *index) {
        if (!shards.contains(file)) {
            auto tensors = checkpoint.add_file((dir / file).string(), file);
            if (!tensors) { return base::pass_on(tensors, model_dir); }
            shards.emplace(file, std::move(*tensors));
        }
        const Tensors& shard = shards[file];
        const auto found = shard.find(name);
        if (found == shard.end()) {
            return base::fail(ErrorCode::data_loss, model_dir + ": " + kIndex + " says that tensor " + name +
                                                        " is in " + file + ", but it is not");
        }
        checkpoint.tensors_.emplace(name, found->second);
    }
    return checkpoint;
}

const Tensor* Checkpoint::find(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

Result<Tensors> Checkpoint::add_file(const std::string& path, std::string_view file_name) {
    struct ::stat before{};
    if (::stat(path.c_str(), &before) != 0) { return tl::unexpected(system_error("open", path, errno)); }
    auto file = base::MappedFile::open(path);
    if (!file) { return base::pass_on(file); }
    auto tensors = parse_safetensors(file->bytes(), file_name);
    if (!tensors) { return base::pass_on(tensors); }
    const auto add = [&](auto number) { identity_ += std::to_string(number) + " "; };
    std::error_code unresolved;
    const auto canonical = std::filesystem::weakly_canonical(path, unresolved);
    identity_ += (unresolved ? path : canonical.string()) + " ";
    add(before.st_dev);
    add(before.st_ino);
    add(before.st_size);
    add(before.st_mtim.tv_sec);
    add(before.st_mtim.tv_nsec);
    add(before.st_ctim.tv_sec);
    add(before.st_ctim.tv_nsec);
    for (const auto& [name, tensor] : *tensors) {
        identity_ += name + " " + tensor.dtype + format_shape(tensor.shape) + " ";
        add(tensor.bytes.data() - file->bytes().data());
    }
    identity_ += "\n";
    bytes_ += file->bytes().size();
    files_.push_back(std::move(*file));
    return tensors;
}

}  // namespace engine
