#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace base {

/// A key that a Config was asked for, and what it may hold.
struct AskedKey {
    enum class Kind { integer, number, boolean, text, choice, list };
    std::string key;
    Kind kind = Kind::text;
    std::string fallback;  // as YAML
    std::int64_t integer_low = 0;
    std::int64_t integer_high = 0;
    double low = 0;
    double high = 0;
    std::vector<std::string> allowed;  // of a choice
};

/// Notes every key that a Config is asked for on this thread, as long as it lives: what all the readers of settings
/// together know is the schema of the settings. One at a time on a thread.
class AskedKeys {
public:
    AskedKeys();
    ~AskedKeys();
    AskedKeys(const AskedKeys&) = delete;
    AskedKeys& operator=(const AskedKeys&) = delete;

    /// By key; of one that was asked for twice, the first asking.
    const std::map<std::string, AskedKey>& keys() const { return keys_; }

    /// For Config: the entry of `key` that is to be filled in, or none where nobody notes, or it was asked for already.
    static AskedKey* note(std::string_view key, AskedKey::Kind kind, std::string fallback);

private:
    std::map<std::string, AskedKey> keys_;
};

}  // namespace base
