#include "base/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include "base/config_asked.h"

namespace base {
namespace {

constexpr std::size_t kFileBytesMax = 4u << 20;
constexpr std::size_t kDepthMax = 32;
constexpr std::size_t kValuesMax = 100'000;

template <class T>
std::string as_yaml(const T& value) {
    YAML::Emitter out;
    out << value;
    return out.c_str();
}

struct Entry {
    YAML::Node value;
    std::string place;  // "file:line" or "--set"
    bool asked = false;
};

std::string describe(const YAML::Node& node) {
    if (node.IsNull()) { return "nothing"; }
    if (node.IsScalar()) { return "'" + node.Scalar() + "'"; }
    return node.IsSequence() ? "a list" : "a section";
}

/// "a, b" as on a command line.
std::vector<std::string> split_list(const std::string& text) {
    std::vector<std::string> items;
    for (std::size_t begin = 0; begin <= text.size();) {
        const auto end = std::min(text.find(',', begin), text.size());
        std::string item = text.substr(begin, end - begin);
        item.erase(0, std::min(item.find_first_not_of(' '), item.size()));
        item.erase(item.find_last_not_of(' ') + 1);
        if (!item.empty()) { items.push_back(std::move(item)); }
        begin = end + 1;
    }
    return items;
}

/// What stands below `node`, as often as aliases repeat it: one that holds itself has no end, and a few lines of
/// aliases of aliases hold more than any memory.
Result<void> check_size(const YAML::Node& node, const std::string& name) {
    std::vector<std::pair<YAML::Node, std::size_t>> left{{node, 1}};  // with its depth
    for (std::size_t seen = 0; !left.empty(); ++seen) {
        const auto [next, depth] = left.back();
        left.pop_back();
        if (depth > kDepthMax || seen + left.size() > kValuesMax) {
            return fail(ErrorCode::invalid_argument, name + " is nested deeper than " + std::to_string(kDepthMax) +
                                                         " levels or holds more than " + std::to_string(kValuesMax) +
                                                         " values, those of repeated aliases counted");
        }
        if (next.IsSequence()) {
            for (const auto& item : next) {
                left.emplace_back(item, depth + 1);
            }
        } else if (next.IsMap()) {
            for (const auto& pair : next) {
                left.emplace_back(pair.second, depth + 1);
            }
        }
    }
    return {};
}

}  // namespace

struct Config::State {
    std::map<std::string, Entry, std::less<>> entries;
    std::map<std::string, std::string, std::less<>> effective;  // key -> value as YAML
    std::vector<std::string> problems;

    Result<void> flatten(const YAML::Node& node, const std::string& prefix, const std::string& name) {
        for (const auto& pair : node) {
            if (!pair.first.IsScalar()) {
                return fail(ErrorCode::invalid_argument, name + ":" + std::to_string(pair.first.Mark().line + 1) +
                                                             ": a key is a word, not a list or a map");
            }
            const std::string key = prefix.empty() ? pair.first.Scalar() : prefix + "." + pair.first.Scalar();
            const std::string place = name + ":" + std::to_string(pair.first.Mark().line + 1);
            if (pair.second.IsMap()) {
                if (auto done = flatten(pair.second, key, name); !done) { return done; }
            } else {
                if (auto [at, fresh] = entries.insert_or_assign(key, Entry{pair.second, place}); !fresh) {
                    at->second.asked = false;
                }
            }
        }
        return {};
    }

    const Entry* find(std::string_view key) {
        const auto at = entries.find(key);
        if (at == entries.end()) { return nullptr; }
        at->second.asked = true;
        return &at->second;
    }

    void problem(std::string_view key, const Entry& entry, const std::string& expected) {
        problems.push_back(entry.place + ": " + std::string(key) + " must be " + expected + ", got " +
                           describe(entry.value));
    }

    template <class T>
    std::optional<T> convert(const Entry& entry) {
        try {
            return entry.value.as<T>();
        } catch (const YAML::Exception&) { return std::nullopt; }
    }

    template <class T>
    T remember(std::string_view key, T value) {
        effective[std::string(key)] = as_yaml(value);
        return value;
    }
};

Config::Config() : state_(std::make_unique<State>()) {}
Config::~Config() = default;
Config::Config(Config&&) noexcept = default;
Config& Config::operator=(Config&&) noexcept = default;

Result<void> Config::add_file(const std::filesystem::path& path) {
    std::ifstream file(path);
    if (!file) { return fail(ErrorCode::not_found, "cannot read the config file " + path.string()); }
    std::string text(kFileBytesMax + 1, '\0');  // the path may name something that has no size, or no end
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
    if (text.size() > kFileBytesMax) {
        return fail(ErrorCode::invalid_argument,
                    path.string() + " has more than " + std::to_string(kFileBytesMax) + " bytes");
    }
    return add_text(text, path.string());
}

Result<void> Config::add_text(std::string_view yaml, std::string_view name) {
    try {
        const YAML::Node root = YAML::Load(std::string(yaml));
        if (root.IsNull()) { return {}; }
        if (!root.IsMap()) {
            return fail(ErrorCode::invalid_argument,
                        std::string(name) + ": a config file is a map of sections and keys");
        }
        if (auto bounded = check_size(root, std::string(name)); !bounded) { return bounded; }
        return state_->flatten(root, "", std::string(name));
    } catch (const YAML::Exception& error) {
        return fail(ErrorCode::invalid_argument,
                    std::string(name) + ":" + std::to_string(error.mark.line + 1) + ": " + error.msg);
    }
}

Result<void> Config::set(std::string_view assignment) {
    const auto equals = assignment.find('=');
    if (equals == std::string_view::npos || equals == 0) {
        return fail(ErrorCode::invalid_argument, "--set takes key=value, got '" + std::string(assignment) + "'");
    }
    const std::string key(assignment.substr(0, equals));
    try {
        YAML::Node value = YAML::Load(std::string(assignment.substr(equals + 1)));
        if (auto bounded = check_size(value, "--set " + key); !bounded) { return bounded; }
        if (value.IsNull()) { value = YAML::Node(""); }
        state_->entries.insert_or_assign(key, Entry{value, "--set " + key});
        return {};
    } catch (const YAML::Exception& error) {
        return fail(ErrorCode::invalid_argument, "--set " + key + ": " + error.msg);
    }
}

std::int64_t Config::integer(std::string_view key, std::int64_t fallback, std::int64_t low, std::int64_t high) {
    if (AskedKey* asked = AskedKeys::note(key, AskedKey::Kind::integer, as_yaml(fallback))) {
        asked->integer_low = low;
        asked->integer_high = high;
    }
    std::int64_t value = fallback;
    if (const Entry* entry = state_->find(key)) {
        const auto given = state_->convert<std::int64_t>(*entry);
        if (given && *given >= low && *given <= high) {
            value = *given;
        } else {
            state_->problem(key, *entry, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
        }
    }
    return state_->remember(key, value);
}

double Config::number(std::string_view key, double fallback, double low, double high) {
    if (AskedKey* asked = AskedKeys::note(key, AskedKey::Kind::number, as_yaml(fallback))) {
        asked->low = low;
        asked->high = high;
    }
    double value = fallback;
    if (const Entry* entry = state_->find(key)) {
        const auto given = state_->convert<double>(*entry);
        if (given && *given >= low && *given <= high) {
            value = *given;
        } else {
            state_->problem(key, *entry, "a number from " + std::to_string(low) + " to " + std::to_string(high));
        }
    }
    return state_->remember(key, value);
}

bool Config::boolean(std::string_view key, bool fallback) {
    AskedKeys::note(key, AskedKey::Kind::boolean, as_yaml(fallback));
    bool value = fallback;
    if (const Entry* entry = state_->find(key)) {
        if (const auto given = state_->convert<bool>(*entry)) {
            value = *given;
        } else {
            state_->problem(key, *entry, "true or false");
        }
    }
    return state_->remember(key, value);
}

std::string Config::string(std::string_view key, std::string_view fallback) {
    AskedKeys::note(key, AskedKey::Kind::text, as_yaml(std::string(fallback)));
    std::string value(fallback);
    if (const Entry* entry = state_->find(key)) {
        if (entry->value.IsScalar()) {
            value = entry->value.Scalar();
        } else {
            state_->problem(key, *entry, "text");
        }
    }
    return state_->remember(key, value);
}

std::string Config::choice(std::string_view key, std::string_view fallback, const std::vector<std::string>& allowed) {
    if (AskedKey* asked = AskedKeys::note(key, AskedKey::Kind::choice, as_yaml(std::string(fallback)))) {
        asked->allowed = allowed;
    }
    std::string value(fallback);
    if (const Entry* entry = state_->find(key)) {
        std::string list;
        for (const std::string& one : allowed) {
            list += (list.empty() ? "" : ", ") + one;
        }
        const bool known = entry->value.IsScalar() &&
                           std::find(allowed.begin(), allowed.end(), entry->value.Scalar()) != allowed.end();
        if (known) {
            value = entry->value.Scalar();
        } else {
            state_->problem(key, *entry, "one of " + list);
        }
    }
    return state_->remember(key, value);
}

std::vector<std::string> Config::strings(std::string_view key, const std::vector<std::string>& fallback) {
    AskedKeys::note(key, AskedKey::Kind::list, as_yaml(fallback));
    std::vector<std::string> value = fallback;
    if (const Entry* entry = state_->find(key)) {
        if (entry->value.IsScalar()) {
            value = split_list(entry->value.Scalar());
        } else if (const auto given = state_->convert<std::vector<std::string>>(*entry)) {
            value = *given;
        } else {
            state_->problem(key, *entry, "a list of texts");
        }
    }
    return state_->remember(key, value);
}

std::vector<std::string> Config::children(std::string_view section) const {
    const std::string prefix = std::string(section) + ".";
    std::vector<std::string> names;
    for (auto at = state_->entries.lower_bound(prefix); at != state_->entries.end() && at->first.starts_with(prefix);
         ++at) {
        const std::string name = at->first.substr(prefix.size(), at->first.find('.', prefix.size()) - prefix.size());
        if (names.empty() || names.back() != name) { names.push_back(name); }
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return names;
}

void Config::problem(std::string_view key, std::string_view message) {
    auto at = state_->entries.lower_bound(key);
    const std::string place = at != state_->entries.end() && at->first.starts_with(key) ? at->second.place + ": " : "";
    state_->problems.push_back(place + std::string(key) + " " + std::string(message));
}

Result<void> Config::finish() const {
    std::vector<std::string> problems = state_->problems;
    for (const auto& [key, entry] : state_->entries) {
        if (!entry.asked) { problems.push_back(entry.place + ": unknown key " + key); }
    }
    if (problems.empty()) { return {}; }
    std::string message;
    for (const std::string& problem : problems) {
        message += (message.empty() ? "" : "\n") + problem;
    }
    return fail(ErrorCode::invalid_argument, message);
}

std::string Config::merged() const {
    std::string text;
    for (const auto& [key, value] : state_->effective) {
        const bool is_none = value.empty() || value == "\"\"" || value == "[]";
        const bool is_secret = (key == "cluster.key" || key == "tracing.headers") && !is_none;
        text += key + ": " + (is_secret ? "(not shown)" : value) + "\n";
    }
    return text;
}

}  // namespace base
