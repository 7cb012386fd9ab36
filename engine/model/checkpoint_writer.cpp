#include "engine/model/checkpoint_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <boost/json.hpp>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/block_hash.h"
#include "base/check.h"
#include "base/parallel.h"
#include "engine/kernels/float_formats.h"
#include "engine/model/model_config.h"
#include "engine/model/read_file.h"
#include "engine/model/weights.h"
#include "engine/philox.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using base::Result;

std::uint64_t elements(const TensorToWrite& tensor) {
    std::uint64_t count = 1;
    for (const std::uint64_t dimension : tensor.shape) {
        count *= dimension;
    }
    return count;
}

std::uint64_t bytes_of(const TensorToWrite& tensor) {
    return elements(tensor) * (tensor.dtype == "F32" ? 4 : 2);
}

std::uint16_t to_f16(float value) {
    const auto sign = static_cast<std::uint32_t>(std::signbit(value) ? 0x8000 : 0);
    const float magnitude = std::fabs(value);
    if (magnitude >= 65520.0f) { return static_cast<std::uint16_t>(sign | 0x7c00u); }
    if (magnitude < 0x1p-14f) {  // subnormal: the unit is 2^-24; 1024 units carry into the first normal number
        return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24f)));
    }
    const auto bits = std::bit_cast<std::uint32_t>(magnitude);
    return static_cast<std::uint16_t>(sign | (((bits + 0xfffu + (bits >> 13 & 1u)) >> 13) - (112u << 10)));
}

void encode(std::span<const float> values, const std::string& dtype, std::byte* out) {
    if (dtype == "F32") {
        std::memcpy(out, values.data(), values.size_bytes());
        return;
    }
    CHECK(dtype == "BF16" || dtype == "F16", dtype);
    for (std::size_t i = 0; i < values.size(); ++i) {
        const std::uint16_t half = dtype == "BF16" ? bf16_from_float(values[i]) : to_f16(values[i]);
        std::memcpy(out + 2 * i, &half, 2);
    }
}

/// A file that is written from front to back.
class FileWriter {
public:
    static Result<FileWriter> create(const fs::path& path) {
        const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (file < 0) { return tl::unexpected(system_error("create", path, errno)); }
        return FileWriter(file, path);
    }
    FileWriter(FileWriter&& other) noexcept : file_(std::exchange(other.file_, -1)), path_(std::move(other.path_)) {}
    FileWriter& operator=(FileWriter&&) = delete;
    ~FileWriter() {
        if (file_ >= 0) { ::close(file_); }
    }

    Result<void> write(std::span<const std::byte> data) {
        while (!data.empty()) {
            const ::ssize_t done = ::write(file_, data.data(), data.size());
            if (done < 0 && errno == EINTR) { continue; }
            if (done <= 0) { return tl::unexpected(system_error("write", path_, done == 0 ? ENOSPC : errno)); }
            data = data.subspan(static_cast<std::size_t>(done));
        }
        return {};
    }
    Result<void> write(const std::string& text) { return write(std::as_bytes(std::span(text))); }

private:
    FileWriter(int file, fs::path path) : file_(file), path_(std::move(path)) {}

    int file_;
    fs::path path_;
};

std::string header_of(std::span<const TensorToWrite> tensors) {
    json::object header;
    header["__metadata__"] = json::object{{"format", "pt"}};
    std::uint64_t offset = 0;
    for (const TensorToWrite& tensor : tensors) {
        json::array shape(tensor.shape.begin(), tensor.shape.end());
        const std::uint64_t end = offset + bytes_of(tensor);
        header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", shape}, {"data_offsets", {offset, end}}};
        offset = end;
    }
    std::string text = json::serialize(header);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
        length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
    }
    return length + text;
}

Result<void> write_text(const fs::path& path, const std::string& text) {
    auto file = FileWriter::create(path);
    if (!file) { return base::pass_on(file); }
    return file->write(text);
}

/// Consecutive tensors that fit into one file, at least one each.
std::vector<std::span<const TensorToWrite>> cut(std::span<const TensorToWrite> tensors, std::uint64_t shard_bytes_max) {
    std::vector<std::span<const TensorToWrite>> shards;
    std::size_t begin = 0;
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (i > begin && bytes + bytes_of(tensors[i]) > shard_bytes_max) {
            shards.push_back(tensors.subspan(begin, i - begin));
            begin = i;
            bytes = 0;
        }
        bytes += bytes_of(tensors[i]);
    }
    shards.push_back(tensors.subspan(begin));
    return shards;
}

std::string shard_name(std::size_t index, std::size_t count) {
    if (count == 1) { return "model.safetensors"; }
    std::array<char, 64> name{};
    std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", index + 1, count);
    return name.data();
}

/// Eight-bit uniforms, four at a time, added up: close to normal, variance 4 (2^16 - 1) / 12.
void fill_random(std::uint64_t seed, std::uint32_t stream, float mean, float deviation, std::uint64_t first,
                 std::span<float> values) {
    const float scale = deviation / std::sqrt(4.0f * 65535.0f / 12.0f);
    std::array<std::uint32_t, 4> bits{};
    std::uint64_t drawn = ~std::uint64_t{0};
    for (std::size_t i = 0; i < values.size(); ++i) {
        const std::uint64_t element = first + i;
        if (element / 4 != drawn) {
            drawn = element / 4;
            bits = philox4x32({static_cast<std::uint32_t>(drawn), static_cast<std::uint32_t>(drawn >> 32), stream, 0},
                              {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
        }
        const std::uint32_t word = bits[element % 4];
        const std::uint32_t sum = (word & 0xff) + (word >> 8 & 0xff) + (word >> 16 & 0xff) + (word >> 24);
        values[i] = mean + scale * (static_cast<float>(sum) - 510.0f);
    }
}

}  // namespace

Result<void> write_checkpoint(const std::string& dir, const base::ModelShape& shape,
                              const std::vector<TensorToWrite>& tensors, std::uint64_t shard_bytes_max,
                              const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    CHECK(!tensors.empty());
    std::error_code error;
    fs::create_directories(dir, error);
    if (error) { return tl::unexpected(system_error("create", dir, error.value())); }
    for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
        fs::remove(fs::path(dir) / name, error);
    }

    std::uint64_t total = 0;
    for (const TensorToWrite& tensor : tensors) {
        total += bytes_of(tensor);
    }
    const auto shards = cut(tensors, shard_bytes_max);
    json::object weight_map;
    std::uint64_t done = 0;
    // As many pieces at a time as there are processors; the file gets them in order.
    constexpr std::uint64_t kPiece = 1u << 20;
    struct Piece {
        std::vector<float> values;
        std::vector<std::byte> encoded;
    };
    std::vector<Piece> pieces(std::min<std::size_t>(base::processors(), 64));
    for (std::size_t index = 0; index < shards.size(); ++index) {
        const std::string name = shard_name(index, shards.size());
        auto file = FileWriter::create(fs::path(dir) / name);
        if (!file) { return base::pass_on(file); }
        if (auto written = file->write(header_of(shards[index])); !written) { return written; }
        for (const TensorToWrite& tensor : shards[index]) {
            weight_map[tensor.name] = name;
            for (std::uint64_t begin = 0; begin < elements(tensor); begin += pieces.size() * kPiece) {
                const std::uint64_t left = elements(tensor) - begin;
                const std::size_t count = std::min<std::size_t>(pieces.size(), (left + kPiece - 1) / kPiece);
                base::parallel_for(count, [&](std::size_t i) {
                    Piece& piece = pieces[i];
                    piece.values.resize(std::min(kPiece, left - i * kPiece));
                    tensor.fill(begin + i * kPiece, piece.values);
                    piece.encoded.resize(piece.values.size() * (tensor.dtype == "F32" ? 4 : 2));
                    encode(piece.values, tensor.dtype, piece.encoded.data());
                });
                for (std::size_t i = 0; i < count; ++i) {
                    if (auto written = file->write(pieces[i].encoded); !written) { return written; }
                    done += pieces[i].encoded.size();
                    if (progress) { progress(done, total); }
                }
            }
        }
    }
    if (shards.size() > 1) {
        const json::object index{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
        auto written = write_text(fs::path(dir) / "model.safetensors.index.json", json::serialize(index) + "\n");
        if (!written) { return written; }
    }
    const std::string& dtype = tensors.front().dtype;
    return write_text(fs::path(dir) / "config.json", format_model_config(shape, dtype == "F32"    ? "float32"
                                                                                : dtype == "BF16" ? "bfloat16"
                                                                                                  : "float16"));
}

std::vector<TensorToWrite> random_tensors(const base::ModelShape& shape, const std::string& dtype, std::uint64_t seed) {
    std::vector<TensorToWrite> tensors;
    for (const PackedItem& item : plan_packing(shape, WeightFormat::f32).items) {
        for (const auto& source : item.sources) {
            float mean = 0;
            float deviation = 1.0f / std::sqrt(static_cast<float>(item.inputs == 0 ? 1 : item.inputs));
            if (item.name == "head") { deviation *= 2.5f; }
            if (item.name == "embedding") {
                // A tied one is smaller: else the residual stream is mostly the last token, and the model repeats it.
                deviation = shape.tied_embeddings ? 1.5f * deviation : 0.7f;
            }
            if (item.inputs == 0) {
                const bool bias = source.tensor.ends_with("bias");
                mean = bias ? 0.0f : 1.0f;
                deviation = 0.1f;
            }
            TensorToWrite tensor{source.tensor, dtype, {source.outputs}, {}};
            if (item.inputs > 0) { tensor.shape.push_back(item.inputs); }
            const auto stream =
                static_cast<std::uint32_t>(base::keyed_hash({}, std::as_bytes(std::span(source.tensor))).low);
            tensor.fill = [=](std::uint64_t first, std::span<float> values) {
                fill_random(seed, stream, mean, deviation, first, values);
            };
            tensors.push_back(std::move(tensor));
        }
    }
    return tensors;
}

}  // namespace engine
