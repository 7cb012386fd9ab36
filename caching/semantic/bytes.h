#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace caching {

/// Numbers and texts one behind the other, as this machine has them in memory: for files that stay on it.
class ByteWriter {
public:
    template <class Number>
    void number(Number value) {
        static_assert(std::is_arithmetic_v<Number>);
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
    void text(std::string_view value) {
        number(static_cast<std::uint32_t>(value.size()));
        bytes_ += value;
    }
    /// A vector or array of numbers, with its length.
    template <class Numbers>
    void list(const Numbers& values) {
        number(static_cast<std::uint32_t>(values.size()));
        for (const auto value : values) {
            number(value);
        }
    }
    std::string take() { return std::move(bytes_); }

private:
    std::string bytes_;
};

/// The inverse. What is not there reads as 0 or empty, and from then on `ok()` is false.
class ByteReader {
public:
    explicit ByteReader(std::string_view bytes) : bytes_(bytes) {}

    template <class Number>
    Number number() {
        Number value{};
        if (bytes_.size() < sizeof(value)) {
            ok_ = false;
            bytes_ = {};
            return Number{};
        }
        std::memcpy(&value, bytes_.data(), sizeof(value));
        bytes_.remove_prefix(sizeof(value));
        return value;
    }
    std::string text() {
        const auto size = number<std::uint32_t>();
        if (size > bytes_.size()) {
            ok_ = false;
            bytes_ = {};
            return {};
        }
        std::string value(bytes_.substr(0, size));
        bytes_.remove_prefix(size);
        return value;
    }
    template <class Numbers>
    Numbers list() {
        using Number = typename Numbers::value_type;
        const auto size = number<std::uint32_t>();
        Numbers values;
        if (size > bytes_.size() / sizeof(Number)) {
            ok_ = false;
            bytes_ = {};
            return values;
        }
        values.reserve(size);
        for (std::uint32_t i = 0; i < size; ++i) {
            values.push_back(number<Number>());
        }
        return values;
    }
    bool ok() const { return ok_; }
    /// Everything was read, and nothing was missing.
    bool at_end() const { return ok_ && bytes_.empty(); }

private:
    std::string_view bytes_;
    bool ok_ = true;
};

}  // namespace caching
