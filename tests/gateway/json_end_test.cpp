#include "gateway/openai/json_end.h"

#include <string>
#include <string_view>
#include <utility>

#include "tests/support/catch.h"

TEST_CASE("JSON is closed behind its outermost object, list or string and nowhere before", "[gateway][openai]") {
    for (const std::string_view text : {R"({})", R"([])", R"("a")", R"("")", R"({"a":[1,{"b":"]}"}],"c":"\"}"})",
                                        R"(["\\",["[{\""],{}])", R"("\\")", R"( { "a" : { } })"}) {
        CAPTURE(text);
        gateway::JsonEnd bytewise;
        for (std::size_t at = 0; at < text.size(); ++at) {
            CAPTURE(at);
            CHECK_FALSE(bytewise.is_closed());
            bytewise.push(text.substr(at, 1));
        }
        CHECK(bytewise.is_closed());
        bytewise.push(" \n");
        CHECK(bytewise.is_closed());
        gateway::JsonEnd at_once;
        at_once.push(text);
        CHECK(at_once.is_closed());
    }
    // These may go on; and nothing has not begun.
    for (const std::string_view text : {"", " ", "12", "true", "null", R"({"a":1)", R"(["a")", R"("a\")"}) {
        gateway::JsonEnd end;
        end.push(text);
        CAPTURE(text);
        CHECK_FALSE(end.is_closed());
    }
}
