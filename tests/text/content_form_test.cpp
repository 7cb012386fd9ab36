#include "text/content_form.h"

#include <filesystem>
#include <string>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/model_text.h"

namespace {

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

/// Templates that want a text, a list of parts, or either.
constexpr const char* kText = "{% for m in messages %}{{ m.role + ':' + m.content }};{% endfor %}";
constexpr const char* kParts =
    "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %};{% endfor %}";
constexpr const char* kBoth =
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content "
    "%}[{{ part.text }}]{% endfor %}{% endif %};{% endfor %}";
/// Prints what it is given as it is, which for a list is its inside.
constexpr const char* kAsItIs = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}";
constexpr const char* kTrimmed = "{% for m in messages %}{{ m.role }}:{{ m.content | trim }};{% endfor %}";

text::ContentForm form_of(const char* source) {
    const auto chat_template = text::ChatTemplate::compile(source);
    REQUIRE(chat_template);
    return text::find_content_form(**chat_template, {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, false);
}

/// What a model with that template makes of messages.
base::Result<std::string> render(const std::string& source, const std::string& messages) {
    const text_test::TemporaryFolder folder;
    std::filesystem::copy_file(text_test::stories_folder() / "tokenizer.json", folder.path() / "tokenizer.json");
    folder.write("chat_template.jinja", source);
    folder.write("tokenizer_config.json", R"({"bos_token":"<s>","eos_token":"</s>"})");
    const auto model = text::ModelText::load(folder.path());
    REQUIRE(model);
    return model->render_chat(R"({"messages":)" + messages + "}", kNow);
}

constexpr const char* kTwoParts =
    R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])";
constexpr const char* kString = R"([{"role":"user","content":"ab"}])";

}  // namespace

TEST_CASE("a template is asked which form of content it prints", "[text]") {
    for (const char* source : {kText, kAsItIs, kTrimmed}) {
        CAPTURE(source);
        const auto form = form_of(source);
        CHECK(form.takes_text);
        CHECK_FALSE(form.takes_parts);
    }
    const auto parts = form_of(kParts);
    CHECK_FALSE(parts.takes_text);
    CHECK(parts.takes_parts);
    const auto both = form_of(kBoth);
    CHECK(both.takes_text);
    CHECK(both.takes_parts);
    // One that refuses every chat is believed to take text.
    CHECK(form_of("{{ raise_exception('not today') }}").takes_text);
    CHECK(form_of("{{ raise_exception('not today') }}").problem.empty());
}

TEST_CASE("each template gets the form that it prints", "[text]") {
    CHECK(render(kText, kString) == std::string("user:ab;"));
    CHECK(render(kText, kTwoParts) == std::string("user:a\nb;"));
    CHECK(render(kTrimmed, kTwoParts) == std::string("user:a\nb;"));
    CHECK(render(kParts, kString) == std::string("user:ab;"));
    CHECK(render(kParts, kTwoParts) == std::string("user:ab;"));
    CHECK(render(kBoth, kString) == std::string("user:ab;"));
    CHECK(render(kBoth, kTwoParts) == std::string("user:[a][b];"));
    // An assistant that says nothing, as clients send it with calls of tools.
    CHECK(render(kParts, R"([{"role":"user","content":"a"},{"role":"assistant","content":""}])") ==
          std::string("user:a;assistant:;"));
}

TEST_CASE("text that no template prints is an error, never silence", "[text]") {
    const auto silent = render("hello{{ bos_token }}", kString);
    REQUIRE_FALSE(silent);
    CHECK(silent.error().message.find("does not print what a user says") != std::string::npos);

    const std::string users_only = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}";
    CHECK(render(users_only, kString) == std::string("ab"));
    for (const char* role : {"system", "assistant", "tool", "function"}) {
        CAPTURE(role);
        const std::string more =
            R"([{"role":")" + std::string(role) + R"(","content":"x"},{"role":"user","content":"y"}])";
        const auto refused = render(users_only, more);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == base::ErrorCode::invalid_argument);
        CHECK(refused.error().message.find("'" + std::string(role) + "'") != std::string::npos);
        // Nothing to print is nothing lost.
        const std::string empty =
            R"([{"role":")" + std::string(role) + R"(","content":" "},{"role":"user","content":"y"}])";
        CHECK(render(users_only, empty) == std::string("y"));
    }
    const std::string last_only = "{{ messages[-1].content }}";
    const auto two = render(last_only, R"([{"role":"user","content":"x"},{"role":"user","content":"y"}])");
    REQUIRE_FALSE(two);
    CHECK(two.error().message.find("last message of a user") != std::string::npos);
}

TEST_CASE("what the system says later is not lost where a template takes one system message", "[text]") {
    const std::string refuses =
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.role }}:{{ m.content }};{% endfor %}";
    const std::string others = "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}";
    const std::string passes_over =
        "{% if messages[0].role == 'system' %}system:{{ messages[0].content }};{% endif %}" + others;
    const std::string keeps_last =
        "{% set ns = namespace(said='') %}{% for m in messages if m.role == 'system' %}{% set ns.said = m.content %}"
        "{% endfor %}system:{{ ns.said }};" +
        others;
    const std::string later =
        R"([{"role":"system","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"user","content":"x"},
            {"role":"assistant","content":"y"},{"role":"system","content":"c"},{"role":"user","content":"z"}])";
    for (const std::string& source : {refuses, passes_over, keeps_last}) {
        CAPTURE(source);
        CHECK(form_of(source.c_str()).takes_one_system);
        CHECK(render(source, later) == std::string("system:a\nb\n\nc;user:x;assistant:y;user:z;"));
        CHECK(render(source, R"([{"role":"user","content":"x"},{"role":"system","content":"c"}])") ==
              std::string("system:c;user:x;"));
    }
    CHECK_FALSE(form_of(kText).takes_one_system);
    CHECK(render(kText, later) == std::string("system:a\nb;user:x;assistant:y;system:c;user:z;"));
    CHECK_FALSE(form_of("{{ messages[-1].content }}").takes_one_system);  // it takes none
}

TEST_CASE("a role that nobody has heard of is one where the template prints it", "[text]") {
    const std::string messages = R"([{"role":"user","content":"a"},{"role":"critic","content":"b"}])";
    CHECK(render(kText, messages) == std::string("user:a;critic:b;"));
    for (const char* source :
         {"{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
          "{% for m in messages %}{% if m.role == 'user' %}[U]{% else %}[A]{% endif %}{{ m.content }}{% endfor %}",
          "{% for m in messages %}{% if m.role not in ['user', 'assistant', 'system'] %}{{ raise_exception('who?') }}"
          "{% endif %}{{ m.role }}{{ m.content }}{% endfor %}"}) {
        CAPTURE(source);
        CHECK_FALSE(form_of(source).takes_other_roles);
        const auto refused = render(source, messages);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == base::ErrorCode::invalid_argument);
        CHECK(refused.error().message.find("'critic'") != std::string::npos);
        CHECK(render(source, R"([{"role":"user","content":"a"}])"));
    }
}

TEST_CASE("every template of the data prints all that the system says", "[text]") {
    const auto takes_one = [](const std::string& name) {
        return name.starts_with("deepseek-r1") || name.starts_with("gpt-oss") || name.starts_with("mistral") ||
               name.starts_with("smollm3");
    };
    for (const auto& entry : std::filesystem::directory_iterator(text_test::own_data() / "chat_templates")) {
        const std::string name = entry.path().filename().string();
        if (entry.path().extension() != ".jinja") { continue; }
        CAPTURE(name);
        const std::string source = text_test::bytes_of(entry.path());
        CHECK(form_of(source.c_str()).takes_one_system == takes_one(name));
        const auto rendered = render(source, R"([{"role":"system","content":"Be brief."},{"role":"user","content":"x"},
            {"role":"assistant","content":"y"},{"role":"system","content":"Be kind."},{"role":"user","content":"z"}])");
        REQUIRE(rendered);
        CHECK(rendered->find("Be brief.") != std::string::npos);
        CHECK(rendered->find("Be kind.") != std::string::npos);
    }
}

TEST_CASE("every template of the data prints what people say", "[text]") {
    for (const auto& entry : std::filesystem::directory_iterator(text_test::own_data() / "chat_templates")) {
        if (entry.path().extension() != ".jinja") { continue; }
        CAPTURE(entry.path().filename().string());
        const auto chat_template = text::ChatTemplate::compile(text_test::bytes_of(entry.path()));
        REQUIRE(chat_template);
        const auto form =
            text::find_content_form(**chat_template, {{"bos_token", "<s>"}, {"eos_token", "</s>"}}, false);
        CHECK(form.problem.empty());
        CHECK(form.takes_text);
        CHECK_FALSE(form.drops_earlier_users);
    }
}

TEST_CASE("a model without a chat template says so once", "[text]") {
    const text_test::TemporaryFolder folder;
    std::filesystem::copy_file(text_test::stories_folder() / "tokenizer.json", folder.path() / "tokenizer.json");
    const auto refused = text::ModelText::load(folder.path())->render_chat("{}", kNow);
    REQUIRE_FALSE(refused);
    const std::string message = refused.error().message;
    CHECK(message.find("no chat template") == message.rfind("no chat template"));
    CHECK(message.find("no chat template") != std::string::npos);
}
