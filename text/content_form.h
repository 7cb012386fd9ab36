#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/chat_template.h"

namespace text {

/// What a chat template makes of a message's content, found out by rendering: `"hello"`, or `[{"type": "text", "text":
/// "hello"}]`, as most templates want the one and some the other.
struct ContentForm {
    bool takes_text = true;
    bool takes_parts = false;
    /// Why no chat can be had of the template: it prints a user's text in neither form. Empty: none.
    std::string problem = {};
    /// Roles whose text the template passes over although it renders them ("tool").
    std::vector<std::string> silent_roles = {};
    /// A user's text is printed only in the last message.
    bool drops_earlier_users = false;
    /// A system message behind the first message is refused, passed over, or takes the place of the first one.
    bool takes_one_system = false;
    /// Messages of roles that nobody has heard of are printed, with the role's name.
    bool takes_other_roles = false;
};

/// Renders small chats with both forms. `variables`: see ModelText; `with_tools`: the template is one for requests with
/// tools. A template that refuses every one of the chats is believed to take text.
ContentForm find_content_form(const ChatTemplate& chat_template,
                              const std::vector<std::pair<std::string, std::string>>& variables, bool with_tools);

/// Puts the contents of a chat's messages (strings, or lists of text parts) into a form that the template takes; one
/// that takes both gets them as they are. Parts become lines of one text. Where a template takes one system message,
/// all become paragraphs of one at the beginning. Error: failed_precondition with ContentForm::problem;
/// invalid_argument for text of a role that is not printed.
base::Result<void> adapt_contents(const ContentForm& form, boost::json::object& context);

}  // namespace text
