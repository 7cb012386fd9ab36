#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "gateway/request/text_port.h"

namespace gateway {

/// What a model answers with.
enum class ModelKind { text, vectors };

/// One model behind a gateway: what the cluster calls it, and its text side.
struct ServedModel {
    std::string name;
    std::shared_ptr<const TextPort> text;
    std::vector<std::string> aliases = {};  // further names for clients
    ModelKind kind = ModelKind::text;
};

/// The models of one gateway, in the order of its configuration; the first of a kind is meant where a client names
/// none. Elsewhere a model is its index here. Immutable: any thread.
class Models {
public:
    /// `aliases` are "ALIAS=MODEL", or an alias alone for the first model. The alias "*" is every name that nobody has:
    /// clients hard-code those of others.
    /// Error: invalid_argument: no model, a name that is empty, or one that is given twice.
    static base::Result<Models> make(std::vector<ServedModel> models, const std::vector<std::string>& aliases);

    std::size_t size() const { return models_.size(); }
    const ServedModel& operator[](std::size_t model) const { return models_[model]; }
    auto begin() const { return models_.begin(); }
    auto end() const { return models_.end(); }

    /// The model of that name or alias; else the one that stands for every name, where there is one.
    std::optional<std::size_t> find(std::string_view name) const;
    /// The one that is meant where a client names none; empty: no model is of this kind.
    std::optional<std::size_t> first_of(ModelKind kind) const;
    /// Every name that clients may use, with its model: each model's own, then its aliases ("*" left out).
    const std::vector<std::pair<std::string, std::size_t>>& names() const { return names_; }
    /// The models' own names.
    std::vector<std::string> own_names() const;

private:
    Models() = default;

    std::vector<ServedModel> models_;
    std::vector<std::pair<std::string, std::size_t>> names_;
    std::optional<std::size_t> any_;  // stands for every other name
};

}  // namespace gateway
