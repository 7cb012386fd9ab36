#include "text/token_ids.h"

#include <cmath>
#include <limits>
#include <sstream>

#include "base/sampling_ranges.h"

namespace text {
namespace {

namespace json = boost::json;

std::string shown(const json::value& value) {
    std::string text = json::serialize(value);
    return text.size() > 80 ? text.substr(0, 77) + "..." : text;
}

std::string shown(double value) {
    std::ostringstream out;
    out << value;
    return out.str();
}

/// A whole number, also as 2.0.
std::optional<std::int64_t> whole(const json::value& value) {
    if (value.is_int64()) { return value.get_int64(); }
    if (value.is_double() && std::nearbyint(value.get_double()) == value.get_double() &&
        std::abs(value.get_double()) < 1e15) {
        return static_cast<std::int64_t>(value.get_double());
    }
    return std::nullopt;
}

std::optional<double> number_in(const json::object& config, std::string_view name, const std::string& file,
                                std::vector<std::string>& warnings) {
    const json::value* field = config.if_contains(name);
    if (field == nullptr || field->is_null()) { return std::nullopt; }
    if (field->is_number()) { return field->to_number<double>(); }
    warnings.push_back(file + ": " + std::string(name) + " is " + shown(*field) + ", no number: it is left out");
    return std::nullopt;
}

}  // namespace

std::vector<base::TokenId> ids_in(const json::object& config, std::string_view name, const std::string& file,
                                  std::size_t vocabulary, std::vector<std::string>& warnings) {
    std::vector<base::TokenId> ids;
    const auto add = [&](const json::value& value) {
        const auto id = whole(value);
        const auto end = vocabulary > 0 ? static_cast<std::int64_t>(vocabulary)
                                        : std::int64_t{std::numeric_limits<base::TokenId>::max()};
        if (id && *id >= 0 && *id < end) {
            ids.push_back(static_cast<base::TokenId>(*id));
        } else if (!id || *id != -1) {  // -1: none, as some write it
            warnings.push_back(file + ": " + std::string(name) + " has " + shown(value) + ", no token id below " +
                               std::to_string(end) + " (the model's vocabulary): it is left out");
        }
    };
    const json::value* field = config.if_contains(name);
    if (field == nullptr || field->is_null()) { return ids; }
    if (field->is_array()) {
        for (const json::value& value : field->get_array()) {
            add(value);
        }
    } else {
        add(*field);
    }
    return ids;
}

void check_defaults(GenerationDefaults& defaults, const std::string& where, std::vector<std::string>& warnings) {
    const auto check = [&](std::optional<double>& value, const char* name, const base::NumberRange& range) {
        if (!value || range.holds(*value)) { return; }
        warnings.push_back(where + name + " is " + shown(*value) + ", must be from " + shown(range.low) + " to " +
                           shown(range.high) + ": it is left out");
        value.reset();
    };
    check(defaults.temperature, "temperature", base::kTemperatureRange);
    check(defaults.top_p, "top_p", base::kTopPRange);
    check(defaults.min_p, "min_p", base::kMinPRange);
    check(defaults.repetition_penalty, "repetition_penalty", base::kRepetitionPenaltyRange);
    if (defaults.top_k && *defaults.top_k < base::kTopKLow) {
        warnings.push_back(where + "top_k is " + std::to_string(*defaults.top_k) +
                           ", must be at least -1: it is left "
                           "out");
        defaults.top_k.reset();
    }
}

GenerationDefaults generation_defaults(const json::object& config, const std::string& file,
                                       std::vector<std::string>& warnings) {
    GenerationDefaults defaults;
    const json::value* do_sample = config.if_contains("do_sample");
    if (do_sample != nullptr && do_sample->is_bool()) { defaults.do_sample = do_sample->get_bool(); }
    defaults.temperature = number_in(config, "temperature", file, warnings);
    defaults.top_p = number_in(config, "top_p", file, warnings);
    defaults.min_p = number_in(config, "min_p", file, warnings);
    defaults.repetition_penalty = number_in(config, "repetition_penalty", file, warnings);
    for (const auto& [name, target] :
         {std::pair("top_k", &defaults.top_k), std::pair("max_new_tokens", &defaults.max_new_tokens)}) {
        const json::value* field = config.if_contains(name);
        if (field == nullptr || field->is_null()) { continue; }
        const auto number = whole(*field);
        if (number && *number >= std::numeric_limits<int>::min() && *number <= std::numeric_limits<int>::max()) {
            *target = static_cast<int>(*number);
        } else {
            warnings.push_back(file + ": " + name + " is " + shown(*field) + ", no whole number: it is left out");
        }
    }
    check_defaults(defaults, file + ": ", warnings);
    return defaults;
}

std::size_t vocabulary_of(const json::object& config) {
    const json::object* places[] = {&config, nullptr};
    if (const json::value* inner = config.if_contains("text_config"); inner != nullptr) {
        places[1] = inner->if_object();
    }
    for (const json::object* place : places) {
        const json::value* size = place == nullptr ? nullptr : place->if_contains("vocab_size");
        const auto number = size == nullptr ? std::nullopt : whole(*size);
        if (number && *number > 0 && *number <= std::numeric_limits<base::TokenId>::max()) {
            return static_cast<std::size_t>(*number);
        }
    }
    return 0;
}

}  // namespace text
