#include "text/content_form.h"

#include <algorithm>
#include <array>
#include <optional>

namespace text {
namespace {

namespace json = boost::json;
using base::ErrorCode;

/// Letters only: no template changes, escapes or cuts them, and no text of a template holds them.
constexpr std::string_view kFirst = "qzjvfirstprobe";
constexpr std::string_view kSecond = "qzjvsecondprobe";
constexpr std::string_view kOther = "qzjvotherprobe";
constexpr std::string_view kLater = "qzjvlaterprobe";
constexpr std::string_view kRole = "qzjvrole";
constexpr std::array<std::string_view, 5> kRoles = {"system", "user", "assistant", "tool", "function"};
constexpr CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

json::value content_of(std::string_view text, bool as_parts) {
    if (!as_parts) { return json::value(text); }
    return json::array{json::object{{"type", "text"}, {"text", text}}};
}

json::object message(std::string_view role, std::string_view text, bool as_parts) {
    return {{"role", role}, {"content", content_of(text, as_parts)}};
}

/// Whether a text is printed as such. A list that was turned into a string shows its inside: {'type': 'text', 'text':
/// 'qzjv'}.
bool is_printed(std::string_view rendered, std::string_view text) {
    const auto at = rendered.find(text);
    if (at == std::string_view::npos) { return false; }
    for (const std::string_view inside : {"'text': '", "\"text\": \"", "\"text\":\""}) {
        if (rendered.substr(0, at).ends_with(inside)) { return false; }
    }
    return true;
}

/// Renders chats made of small messages.
class Probe {
public:
    Probe(const ChatTemplate& chat_template, const std::vector<std::pair<std::string, std::string>>& variables,
          bool with_tools)
        : chat_template_(chat_template) {
        for (const auto& [name, text] : variables) {
            context_[name] = text;
        }
        context_["add_generation_prompt"] = true;
        if (with_tools) {
            const json::object parameters{{"type", "object"}, {"properties", json::object()}};
            const json::object function{{"name", "f"}, {"description", "d"}, {"parameters", parameters}};
            context_["tools"] = json::array{json::object{{"type", "function"}, {"function", function}}};
        }
    }

    /// Empty when the template refuses.
    std::optional<std::string> render(json::array messages) const {
        json::object context = context_;
        context["messages"] = std::move(messages);
        auto rendered = chat_template_.render(json::serialize(context), kNow);
        if (!rendered) { return std::nullopt; }
        return std::move(*rendered);
    }

private:
    const ChatTemplate& chat_template_;
    json::object context_;
};

/// What a template does with a user's text in one form.
enum class Answer { printed, silent, refused };

Answer ask(const Probe& probe, bool as_parts) {
    const json::array alone{message("user", kFirst, as_parts)};
    const json::array after_system{message("system", kOther, as_parts), message("user", kFirst, as_parts)};
    Answer answer = Answer::refused;
    for (const json::array& messages : {alone, after_system}) {
        const auto rendered = probe.render(messages);
        if (!rendered) { continue; }
        if (is_printed(*rendered, kFirst)) { return Answer::printed; }
        answer = Answer::silent;
    }
    return answer;
}

/// Whether the text of `role` is passed over in a chat that is rendered otherwise.
bool is_silent(const Probe& probe, std::string_view role, bool as_parts) {
    json::array messages;
    if (role == "system") {
        messages = {message(role, kOther, as_parts), message("user", kFirst, as_parts)};
    } else if (role == "assistant") {
        messages = {message("user", kSecond, as_parts), message(role, kOther, as_parts),
                    message("user", kFirst, as_parts)};
    } else {
        json::object call = message("assistant", "", as_parts);
        const json::object function{{"name", "f"}, {"arguments", json::object()}};
        call["tool_calls"] =
            json::array{json::object{{"id", "abcdefghi"}, {"type", "function"}, {"function", function}}};
        json::object result = message(role, kOther, as_parts);
        result["tool_call_id"] = "abcdefghi";
        result["name"] = "f";
        messages = {message("user", kFirst, as_parts), call, result};
    }
    const auto rendered = probe.render(messages);
    return rendered && is_printed(*rendered, kFirst) && !is_printed(*rendered, kOther);
}

/// Whether of two system messages not both are printed, although the first one alone is.
bool takes_one_system(const Probe& probe, bool as_parts) {
    json::array messages{message("system", kOther, as_parts), message("user", kSecond, as_parts),
                         message("assistant", kFirst, as_parts), message("user", kFirst, as_parts)};
    const auto once = probe.render(messages);
    if (!once || !is_printed(*once, kOther)) { return false; }
    messages.insert(messages.end() - 1, message("system", kLater, as_parts));
    const auto twice = probe.render(messages);
    return !twice || !is_printed(*twice, kOther) || !is_printed(*twice, kLater);
}

bool takes_other_roles(const Probe& probe, bool as_parts) {
    const auto rendered = probe.render(
        {message("user", kFirst, as_parts), message(kRole, kOther, as_parts), message("user", kSecond, as_parts)});
    return rendered && is_printed(*rendered, kOther) && rendered->find(kRole) != std::string::npos;
}

bool has_text(const json::value& content) {
    if (content.is_string()) {
        const auto& text = content.get_string();
        return text.find_first_not_of(" \t\r\n") != json::string::npos;
    }
    if (!content.is_array()) { return false; }
    return std::any_of(content.get_array().begin(), content.get_array().end(), [](const json::value& part) {
        const json::object* object = part.if_object();
        const json::value* text = object == nullptr ? nullptr : object->if_contains("text");
        return text != nullptr && has_text(*text);
    });
}

std::string joined(const json::array& parts) {
    std::string text;
    for (const json::value& part : parts) {
        const json::object* object = part.if_object();
        const json::value* line = object == nullptr ? nullptr : object->if_contains("text");
        if (line == nullptr || !line->is_string()) { continue; }
        if (&part != &parts.front()) { text += '\n'; }
        text += std::string_view(line->get_string());
    }
    return text;
}

bool is_system(const json::value& message) {
    const json::object* object = message.if_object();
    const json::value* role = object == nullptr ? nullptr : object->if_contains("role");
    return role != nullptr && role->is_string() && role->get_string() == "system";
}

/// What the system says, in its order, as one message before all others.
void gather_system(json::array& messages) {
    const auto first_other = std::find_if_not(messages.begin(), messages.end(), is_system);
    const bool stands_alone =
        first_other - messages.begin() < 2 && std::none_of(first_other, messages.end(), is_system);
    if (stands_alone) { return; }
    std::string said;
    json::array gathered{json::object{{"role", "system"}}};
    for (json::value& one : messages) {
        if (!is_system(one)) {
            gathered.push_back(std::move(one));
            continue;
        }
        const json::value* content = one.get_object().if_contains("content");
        if (content == nullptr || !has_text(*content)) { continue; }
        if (!said.empty()) { said += "\n\n"; }
        said += content->is_array() ? joined(content->get_array()) : std::string(content->get_string());
    }
    gathered.front().get_object()["content"] = said;
    messages = std::move(gathered);
}

}  // namespace

ContentForm find_content_form(const ChatTemplate& chat_template,
                              const std::vector<std::pair<std::string, std::string>>& variables, bool with_tools) {
    const Probe probe(chat_template, variables, with_tools);
    const Answer text = ask(probe, false);
    const Answer parts = ask(probe, true);
    ContentForm form{.takes_text = text == Answer::printed, .takes_parts = parts == Answer::printed};
    if (!form.takes_text && !form.takes_parts) {
        if (text == Answer::refused && parts == Answer::refused) { return ContentForm{}; }
        form.problem =
            "the chat template does not print what a user says, neither given as a text nor as a list of "
            "parts of the type text";
        return form;
    }
    const bool as_parts = !form.takes_text;
    for (const char* role : {"system", "assistant", "tool", "function"}) {
        if (is_silent(probe, role, as_parts)) { form.silent_roles.emplace_back(role); }
    }
    const auto turns = probe.render({message("user", kSecond, as_parts), message("assistant", kOther, as_parts),
                                     message("user", kFirst, as_parts)});
    form.drops_earlier_users = turns && is_printed(*turns, kFirst) && !is_printed(*turns, kSecond);
    form.takes_one_system = takes_one_system(probe, as_parts);
    form.takes_other_roles = takes_other_roles(probe, as_parts);
    return form;
}

base::Result<void> adapt_contents(const ContentForm& form, json::object& context) {
    if (!form.problem.empty()) { return base::fail(ErrorCode::failed_precondition, form.problem); }
    json::value* messages = context.if_contains("messages");
    if (messages == nullptr || !messages->is_array()) { return {}; }
    if (form.takes_one_system) { gather_system(messages->get_array()); }
    std::size_t users = 0;
    for (json::value& one : messages->get_array()) {
        json::object* object = one.if_object();
        json::value* content = object == nullptr ? nullptr : object->if_contains("content");
        const json::value* role = object == nullptr ? nullptr : object->if_contains("role");
        if (content == nullptr || role == nullptr || !role->is_string()) { continue; }
        const bool calls = object->contains("tool_calls");  // templates print the calls in place of the text
        const auto is_among = [name = std::string_view(role->get_string())](const auto& roles) {
            return std::find(roles.begin(), roles.end(), name) != roles.end();
        };
        const bool is_silent = has_text(*content) && !calls && is_among(form.silent_roles);
        if (is_silent || (!form.takes_other_roles && !is_among(kRoles))) {
            return base::fail(ErrorCode::invalid_argument,
                              "the chat template of this model does not print messages of "
                              "the role '" +
                                  std::string(role->get_string()) + "'");
        }
        if (role->get_string() == "user" && has_text(*content) && ++users > 1 && form.drops_earlier_users) {
            return base::fail(ErrorCode::invalid_argument,
                              "the chat template of this model prints the last message of a user only");
        }
        if (content->is_array() && !form.takes_parts) { *content = joined(content->get_array()); }
        if (content->is_string() && !form.takes_text) {
            const std::string text(content->get_string());
            *content = content_of(text, true);
        }
    }
    return {};
}

}  // namespace text
