#include "gateway/request/models.h"

#include <algorithm>
#include <set>

namespace gateway {
namespace {

constexpr std::string_view kAnyName = "*";

/// Splits "ALIAS=MODEL" where MODEL is one of the models; anything else is an alias of the first one.
std::pair<std::string, std::size_t> read_alias(const std::string& text, const std::vector<ServedModel>& models) {
    for (std::size_t model = 0; model < models.size(); ++model) {
        const std::string suffix = "=" + models[model].name;
        if (text.size() > suffix.size() && text.ends_with(suffix)) {
            return {text.substr(0, text.size() - suffix.size()), model};
        }
    }
    return {text, 0};
}

}  // namespace

base::Result<Models> Models::make(std::vector<ServedModel> models, const std::vector<std::string>& aliases) {
    if (models.empty()) { return base::fail(base::ErrorCode::invalid_argument, "a gateway needs a model"); }
    for (const std::string& text : aliases) {
        auto [alias, model] = read_alias(text, models);
        models[model].aliases.push_back(std::move(alias));
    }
    Models result;
    result.models_ = std::move(models);
    std::set<std::string_view> seen;
    for (std::size_t model = 0; model < result.models_.size(); ++model) {
        result.names_.emplace_back(result.models_[model].name, model);
        for (const std::string& alias : result.models_[model].aliases) {
            result.names_.emplace_back(alias, model);
        }
    }
    for (const auto& [name, model] : result.names_) {
        if (name == kAnyName) { result.any_ = model; }
        if (name.empty()) { return base::fail(base::ErrorCode::invalid_argument, "a model has an empty name"); }
        if (!seen.insert(name).second) {
            return base::fail(base::ErrorCode::invalid_argument, "the model name '" + name + "' is given twice");
        }
    }
    std::erase_if(result.names_, [](const auto& one) { return one.first == kAnyName; });
    return result;
}

std::optional<std::size_t> Models::find(std::string_view name) const {
    for (const auto& [known, model] : names_) {
        if (known == name) { return model; }
    }
    return any_;
}

std::optional<std::size_t> Models::first_of(ModelKind kind) const {
    for (std::size_t model = 0; model < models_.size(); ++model) {
        if (models_[model].kind == kind) { return model; }
    }
    return std::nullopt;
}

std::vector<std::string> Models::own_names() const {
    std::vector<std::string> names;
    for (const ServedModel& model : models_) {
        names.push_back(model.name);
    }
    return names;
}

}  // namespace gateway
