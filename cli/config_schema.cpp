#include "cli/config_schema.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <limits>
#include <string_view>
#include <utility>

namespace cli {

namespace json = boost::json;

namespace {

using Asked = base::AskedKey;

json::value default_of(const Asked& asked) {
    try {
        const YAML::Node node = YAML::Load(asked.fallback);
        switch (asked.kind) {
            case Asked::Kind::integer:
                return node.as<std::int64_t>();
            case Asked::Kind::number:
                return node.as<double>();
            case Asked::Kind::boolean:
                return node.as<bool>();
            case Asked::Kind::text:
            case Asked::Kind::choice:
                return json::value(node.as<std::string>());
            case Asked::Kind::list: {
                json::array items;
                for (const auto& item : node) {
                    items.emplace_back(item.as<std::string>());
                }
                return items;
            }
        }
    } catch (const YAML::Exception&) {}
    return nullptr;
}

json::object type_of(const Asked& asked) {
    json::object type;
    switch (asked.kind) {
        case Asked::Kind::integer:
            type["type"] = "integer";
            type["minimum"] = asked.integer_low;
            if (asked.integer_high != std::numeric_limits<std::int64_t>::max()) {
                type["maximum"] = asked.integer_high;
            }
            break;
        case Asked::Kind::number:
            type["type"] = "number";
            type["minimum"] = asked.low;
            type["maximum"] = asked.high;
            break;
        case Asked::Kind::boolean:
            type["type"] = "boolean";
            break;
        case Asked::Kind::text:
            type["type"] = "string";
            break;
        case Asked::Kind::choice: {
            type["type"] = "string";
            // Names that the user chooses may be among what is allowed.
            if (std::find(asked.allowed.begin(), asked.allowed.end(), kNamePlaceholder) != asked.allowed.end()) {
                break;
            }
            json::array allowed;
            for (const std::string& one : asked.allowed) {
                allowed.emplace_back(one);
            }
            type["enum"] = std::move(allowed);
            break;
        }
        case Asked::Kind::list: {
            json::object item;
            item["type"] = "string";
            type["type"] = "array";
            type["items"] = std::move(item);
            break;
        }
    }
    type["default"] = default_of(asked);
    return type;
}

/// The section below `section` of that name, made where it is not there.
json::object& section_in(json::object& section, std::string_view name) {
    if (name == kNamePlaceholder) {
        json::value& below = section["additionalProperties"];
        if (!below.is_object()) { below = json::object(); }
        return below.get_object();
    }
    json::value& properties = section["properties"];
    if (!properties.is_object()) { properties = json::object(); }
    json::value& below = properties.get_object()[name];
    if (!below.is_object()) { below = json::object(); }
    return below.get_object();
}

/// Every section is an object that takes no keys but those.
void close_sections(json::object& section) {
    const bool is_section = section.contains("properties") || section.contains("additionalProperties");
    if (!is_section) { return; }
    section["type"] = "object";
    if (!section.contains("additionalProperties")) { section["additionalProperties"] = false; }
    for (const char* below : {"properties", "additionalProperties"}) {
        json::value* found = section.if_contains(below);
        if (found == nullptr || !found->is_object()) { continue; }
        if (std::string_view(below) == "additionalProperties") {
            close_sections(found->get_object());
            continue;
        }
        for (auto& [name, value] : found->get_object()) {
            if (value.is_object()) { close_sections(value.get_object()); }
        }
    }
}

void print(const json::value& value, std::size_t depth, std::string& out) {
    const std::string indent(2 * (depth + 1), ' ');
    const bool is_flat_list = value.is_array() && std::none_of(value.get_array().begin(), value.get_array().end(),
                                                               [](const auto& one) { return one.is_structured(); });
    if (value.is_object() && !value.get_object().empty()) {
        bool is_first = true;
        for (const auto& [name, member] : value.get_object()) {
            out += (is_first ? "{\n" : ",\n") + indent + json::serialize(json::value(name)) + ": ";
            print(member, depth + 1, out);
            is_first = false;
        }
        out += "\n" + std::string(2 * depth, ' ') + "}";
    } else if (value.is_array() && !is_flat_list) {
        bool is_first = true;
        for (const json::value& item : value.get_array()) {
            out += (is_first ? "[\n" : ",\n") + indent;
            print(item, depth + 1, out);
            is_first = false;
        }
        out += "\n" + std::string(2 * depth, ' ') + "]";
    } else {
        out += json::serialize(value);
    }
}

}  // namespace

json::object config_schema(const std::map<std::string, base::AskedKey>& asked) {
    json::object schema;
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
    schema["title"] = "Settings of Sluice";
    for (const auto& [key, one] : asked) {
        json::object* section = &schema;
        std::string_view rest = key;
        for (auto dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
            section = &section_in(*section, rest.substr(0, dot));
            rest.remove_prefix(dot + 1);
        }
        section_in(*section, rest) = type_of(one);
    }
    close_sections(schema);
    return schema;
}

std::string pretty_json(const json::value& value) {
    std::string out;
    print(value, 0, out);
    return out + "\n";
}

}  // namespace cli
