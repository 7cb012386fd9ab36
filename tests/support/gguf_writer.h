#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/gguf.h"

namespace test_gguf {

/// Bytes that grow at the end, in GGUF's forms.
class Bytes {
public:
    template <class T>
    Bytes& put(T value) {
        const auto* from = reinterpret_cast<const std::byte*>(&value);
        bytes_.insert(bytes_.end(), from, from + sizeof value);
        return *this;
    }
    Bytes& put_raw(std::string_view text) {
        const auto* from = reinterpret_cast<const std::byte*>(text.data());
        bytes_.insert(bytes_.end(), from, from + text.size());
        return *this;
    }
    Bytes& put_raw(std::span<const std::byte> bytes) {
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
        return *this;
    }
    Bytes& put_text(std::string_view text) { return put<std::uint64_t>(text.size()).put_raw(text); }
    Bytes& put_type(base::GgufType type) { return put(static_cast<std::uint32_t>(type)); }
    void pad_to(std::size_t alignment) { bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment); }
    const std::vector<std::byte>& bytes() const { return bytes_; }
    std::vector<std::byte>& bytes() { return bytes_; }

private:
    std::vector<std::byte> bytes_;
};

/// A GGUF file in the making: keys and tensors in the order in which they are added.
class Writer {
public:
    Writer& text(std::string_view key, std::string_view value) {
        start(key, base::GgufType::string).put_text(value);
        return *this;
    }
    Writer& u32(std::string_view key, std::uint32_t value) {
        start(key, base::GgufType::u32).put(value);
        return *this;
    }
    Writer& u16(std::string_view key, std::uint16_t value) {
        start(key, base::GgufType::u16).put(value);
        return *this;
    }
    Writer& i32(std::string_view key, std::int32_t value) {
        start(key, base::GgufType::i32).put(value);
        return *this;
    }
    Writer& f32(std::string_view key, float value) {
        start(key, base::GgufType::f32).put(value);
        return *this;
    }
    Writer& boolean(std::string_view key, bool value) {
        start(key, base::GgufType::boolean).put<std::uint8_t>(value ? 1 : 0);
        return *this;
    }
    Writer& texts(std::string_view key, const std::vector<std::string>& values) {
        Bytes& at = start_array(key, base::GgufType::string, values.size());
        for (const std::string& value : values) {
            at.put_text(value);
        }
        return *this;
    }
    Writer& i32s(std::string_view key, const std::vector<std::int32_t>& values) {
        Bytes& at = start_array(key, base::GgufType::i32, values.size());
        for (const std::int32_t value : values) {
            at.put(value);
        }
        return *this;
    }
    Writer& f32s(std::string_view key, const std::vector<float>& values) {
        Bytes& at = start_array(key, base::GgufType::f32, values.size());
        for (const float value : values) {
            at.put(value);
        }
        return *this;
    }
    /// `shape`: the length of a row first.
    Writer& tensor(std::string_view name, std::vector<std::uint64_t> shape, std::uint32_t type,
                   std::span<const std::byte> bytes) {
        tensors_.push_back({std::string(name), std::move(shape), type, {bytes.begin(), bytes.end()}});
        return *this;
    }

    std::vector<std::byte> bytes(std::uint32_t version = 3, std::size_t alignment = 32) const {
        Bytes file;
        file.put_raw("GGUF").put(version).put<std::uint64_t>(tensors_.size()).put<std::uint64_t>(keys_);
        file.put_raw(values_.bytes());
        std::uint64_t offset = 0;
        for (const Tensor& tensor : tensors_) {
            file.put_text(tensor.name).put(static_cast<std::uint32_t>(tensor.shape.size()));
            for (const std::uint64_t length : tensor.shape) {
                file.put(length);
            }
            file.put(tensor.type).put(offset);
            offset = (offset + tensor.bytes.size() + alignment - 1) / alignment * alignment;
        }
        for (const Tensor& tensor : tensors_) {
            file.pad_to(alignment);
            file.put_raw(tensor.bytes);
        }
        return file.bytes();
    }
    void write(const std::filesystem::path& path) const {
        const std::vector<std::byte> all = bytes();
        std::ofstream(path, std::ios::binary)
            .write(reinterpret_cast<const char*>(all.data()), static_cast<std::streamsize>(all.size()));
    }

private:
    struct Tensor {
        std::string name;
        std::vector<std::uint64_t> shape;
        std::uint32_t type;
        std::vector<std::byte> bytes;
    };

    Bytes& start(std::string_view key, base::GgufType type) {
        ++keys_;
        return values_.put_text(key).put_type(type);
    }
    Bytes& start_array(std::string_view key, base::GgufType item, std::size_t count) {
        return start(key, base::GgufType::array).put_type(item).put<std::uint64_t>(count);
    }

    std::uint64_t keys_ = 0;
    Bytes values_;
    std::vector<Tensor> tensors_;
};

/// `count` bytes that are no regular pattern.
inline std::vector<std::byte> some_bytes(std::size_t count, std::uint32_t seed = 1) {
    std::vector<std::byte> bytes(count);
    std::uint32_t state = seed * 2654435761u + 1;
    for (std::byte& byte : bytes) {
        state = state * 1664525u + 1013904223u;
        byte = static_cast<std::byte>(state >> 24);
    }
    return bytes;
}

}  // namespace test_gguf
