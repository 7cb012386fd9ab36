#pragma once

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "text/model_text.h"

namespace text {

/// The ids in a field that is a number, a list of numbers, or absent. What is none of these, or no id of a vocabulary
/// of `vocabulary` tokens (0: unknown), is left out and told in `warnings`, with `file` and the field's name.
std::vector<base::TokenId> ids_in(const boost::json::object& config, std::string_view name, const std::string& file,
                                  std::size_t vocabulary, std::vector<std::string>& warnings);

/// What `config` recommends for sampling. Values that no request may have are left out and told in `warnings`.
GenerationDefaults generation_defaults(const boost::json::object& config, const std::string& file,
                                       std::vector<std::string>& warnings);

/// `vocab_size` of config.json, also inside `text_config`; 0 where there is none.
std::size_t vocabulary_of(const boost::json::object& config);

/// Leaves out, with a warning, what of `defaults` no request may have. `where`: file or key before each name.
void check_defaults(GenerationDefaults& defaults, const std::string& where, std::vector<std::string>& warnings);

}  // namespace text
