#pragma once

#include <boost/json/object.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace gateway {

/// One question, maybe behind a system prompt, and nothing else: what is routed between two models, and kept.
struct SingleQuestion {
    std::string system;
    std::string text;
};
/// Of a chat template's context; empty: it is something else.
std::optional<SingleQuestion> single_question(const boost::json::object& context);

/// Puts the examples behind the system prompt, which is where the next request of its kind has them, too.
void insert_examples(boost::json::object& context, const std::string& examples);

/// The context of another question that is asked in the same way, with these examples (empty: none). `context` holds a
/// single question.
std::string with_question(std::string_view context, const std::string& question, const std::string& examples);

/// Without what a model thought before it.
std::string without_reasoning(const std::string& answer);

}  // namespace gateway
