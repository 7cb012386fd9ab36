#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace base {

/// Settings as a tree of sections and keys ("decode.kv_pool_bytes"), from a YAML file, then from `--set key=value`.
///
/// Each part of the program asks for the keys it knows, with default and bounds; `finish()` reports in one error
/// every bad value and every key that nobody asked for, with file and line. Not thread-safe; used once at start.
class Config {
public:
    Config();
    ~Config();
    Config(Config&&) noexcept;
    Config& operator=(Config&&) noexcept;

    /// Reads a file on top of what is there. Error: not_found, invalid_argument (with line).
    Result<void> add_file(const std::filesystem::path& path);
    /// The same from text; `name` stands for the file in messages.
    Result<void> add_text(std::string_view yaml, std::string_view name);
    /// `assignment` is "key.path=value", the value in YAML. Later ones win. Error: invalid_argument.
    Result<void> set(std::string_view assignment);

    /// The value at `key`, or `fallback`. A value outside [low, high] or of another type is remembered for finish().
    std::int64_t integer(std::string_view key, std::int64_t fallback, std::int64_t low = 0,
                         std::int64_t high = std::numeric_limits<std::int64_t>::max());
    double number(std::string_view key, double fallback, double low, double high);
    bool boolean(std::string_view key, bool fallback);
    std::string string(std::string_view key, std::string_view fallback);
    /// One of `allowed`.
    std::string choice(std::string_view key, std::string_view fallback, const std::vector<std::string>& allowed);
    std::vector<std::string> strings(std::string_view key, const std::vector<std::string>& fallback);  // or "a, b"

    /// Names of the keys and sections right below `section` that were given, sorted.
    std::vector<std::string> children(std::string_view section) const;
    /// Remembers for finish() that what stands at `key` or below it is wrong; `message` follows the key.
    void problem(std::string_view key, std::string_view message);

    /// Error: invalid_argument that lists all problems, one a line. Call after every part has read its keys.
    Result<void> finish() const;

    /// Every key that was asked for with the value in effect, as YAML, sorted.
    std::string merged() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace base
