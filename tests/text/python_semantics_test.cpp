// Where Jinja in Python and minijinja could part, the answer is Python's. Expected values are from Jinja2 3.1.6.
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "text/chat_template.h"

namespace {

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 6, .hour = 13, .minute = 5, .second = 9};
constexpr const char* kContext = R"({"t": true, "n": null, "i": 3, "x": 1.5, "y": 1e20, "z": 1e-7, "w": 100.0,
    "minus_zero": -0, "wide": 123456789012345678901234, "u": "日本語テキスト", "padded": " a b\t",
    "l": [1, "two", null, true, 2.5, {"a": "q'uote"}], "el": [], "d": {"items": 1, "name": "x", "items": 2},
    "m": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]})";

struct Case {
    const char* source;
    const char* expected;
};

}  // namespace

TEST_CASE("templates print, compare and call methods as in Python", "[text]") {
    const std::vector<Case> cases = {
        {"{{ t }} {{ n }} {{ i }} {{ x }} {{ y }} {{ z }} {{ w }} {{ minus_zero }}",
         "True None 3 1.5 1e+20 1e-07 100.0 0"},
        {"{{ wide }}", "123456789012345678901234"},
        {"{{ l }}", "[1, 'two', None, True, 2.5, {'a': \"q'uote\"}]"},
        {"{{ 'a' ~ t ~ n ~ l }}", "aTrueNone[1, 'two', None, True, 2.5, {'a': \"q'uote\"}]"},
        {"{{ d }} {{ d.items() | list }}", "{'items': 2, 'name': 'x'} [('items', 2), ('name', 'x')]"},
        {"{{ l | tojson }}", "[1, \"two\", null, true, 2.5, {\"a\": \"q'uote\"}]"},
        {"{{ {'b': [1], 'a': {}} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}"},
        {"{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}", "{\"a\":2,\"b\":1}"},
        {"{{ u | tojson }} {{ 'é🦙' | tojson(ensure_ascii=true) }}", "\"日本語テキスト\" \"\\u00e9\\ud83e\\udd99\""},
        {"{{ '<&>' | tojson }} {{ '<b>' }}", "\"<&>\" <b>"},
        {"{{ u.find('語') }} {{ u[1:3] }} {{ u[u.find('テ'):] }} {{ u[::-1] }}", "2 本語 テキスト トスキテ語本日"},
        {"{{ padded.strip() }}|{{ padded.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a b c'.rsplit(' ', 1) }}",
         "a b|['a', 'b']|['a', 'b,c']|['a b', 'c']"},
        {"{{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.removeprefix('a') }} {{ 'a-b'.partition('-')[2] }}", "True bc b"},
        {"{{ 'a\\nb\\r\\nc'.splitlines() }} {{ ''.isdigit() }} {{ 'ab'.islower() }}", "['a', 'b', 'c'] False True"},
        {"{{ 'x' is sequence }} {{ 'x' is iterable }} {{ l is sequence }} {{ d is mapping }} {{ t is number }}",
         "True True True True True"},
        {"{{ m[::-1] | map(attribute='role') | list }} {{ el[::-1] | list }} {{ m[-1].role }} {{ m[::-1][0].role }}",
         "['user', 'system'] [] user user"},
        {"{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }} {{ [1, 2.5] | sum }}", "3 3.5"},
        {"{{ missing }}|{{ missing | default('d') }}|{{ n | default('d') }}|{{ n or 'o' }}", "|d|None|o"},
        {"{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}", "True True False"},
        {"{% set ns = namespace(a=0) %}{% for x in m %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}", "2"},
        {"{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"},
        {"{%- generation -%} g {%- endgeneration -%} x", "gx"},
        {"a\r\n{% if t %}\r\nb\r\n{% endif %}\r\nc", "a\nb\nc"},
        {"   {% if t %}\n x\n   {% endif %}\ny\n", " x\ny"},
        {"{{ strftime_now('%d %b %Y %A %j %-d %H:%M:%S %p %y %%') }}", "06 Jul 2024 Saturday 188 6 13:05:09 PM 24 %"},
        {"{{ '3' | int + 1 }} {{ ' -1_000 ' | int }} {{ '3.7' | int }} {{ 'x' | int }} {{ 'x' | int(9) }} {{ n | "
         "int(default=5) }}",
         "4 -1000 3 0 9 5"},
        {"{{ 3.7 | int }} {{ t | int }} {{ '1e3' | float }} {{ 'x' | float }} {{ 'x' | float(default=2.5) }}",
         "3 1 1000.0 0.0 2.5"},
        {"{{ 2.5 | round }} {{ 3.456 | round(1) }} {{ 2.675 | round(2) }} {{ 7 | round }} {{ 3.2 | round(0, 'ceil') }} "
         "{{ 3.7 | "
         "round(method='floor') }}",
         "2.0 3.5 2.67 7 4.0 3.0"},
        {"{{ ' a  b c ' | wordcount }}", "3"},
        {"{{ '%s-%d' | format('a', 3) }} {{ '{} {}'.format('a', 1) }}", "a-3 a 1"},
    };
    for (const Case& item : cases) {
        CAPTURE(item.source);
        const auto chat_template = text::ChatTemplate::compile(item.source);
        INFO((chat_template ? "" : chat_template.error().message));
        REQUIRE(chat_template);
        const auto rendered = (*chat_template)->render(kContext, kNow);
        INFO((rendered ? "" : rendered.error().message));
        REQUIRE(rendered);
        CHECK(*rendered == item.expected);
    }
}

TEST_CASE("what Python refuses is refused", "[text]") {
    for (const char* source : {"{{ 'a' + 1 }}", "{{ 'a' + n }}", "{{ l + 'a' }}", "{{ 'x' in n }}", "{{ n | length }}",
                               "{{ missing.field }}", "{{ missing() }}", "{{ n.items() }}", "{{ i.foo() }}",
                               "{{ m.append(1) }}", "{{ missing | tojson }}", "{{ 'a'.index('b') }}"}) {
        CAPTURE(source);
        const auto rendered = (*text::ChatTemplate::compile(source))->render(kContext, kNow);
        REQUIRE_FALSE(rendered);
        CHECK(rendered.error().code == base::ErrorCode::invalid_argument);
    }
    const auto unknown = text::ChatTemplate::compile("{{ i | no_such_filter }}");
    const bool is_refused = !unknown || !(*unknown)->render(kContext, kNow);
    CHECK(is_refused);
}

TEST_CASE("times are read in the forms that people write", "[text]") {
    const auto full = text::parse_civil_time("2024-07-26 13:05:09");
    REQUIRE(full);
    CHECK(full->year == 2024);
    CHECK(full->month == 7);
    CHECK(full->day == 26);
    CHECK(full->hour == 13);
    CHECK(full->minute == 5);
    CHECK(full->second == 9);
    CHECK(text::parse_civil_time("2024-07-26T13:05:09")->second == 9);
    CHECK(text::parse_civil_time("2024-07-26T13:05:09Z")->hour == 13);
    CHECK(text::parse_civil_time("2024-07-26T13:05")->minute == 5);
    CHECK(text::parse_civil_time("2024-07-26")->hour == 0);
    CHECK(text::parse_civil_time("1721999109")->year == 2024);
    CHECK(text::local_time(1'721'999'109'250'000).microsecond == 250'000);
    for (const char* bad : {"", "now", "2024-13-01", "2024-07-26x", "2024-07-26 25:00", "24-07-26", "-5",
                            "2024-07-26 13:05:09.5", "99999999999999999999"}) {
        CAPTURE(bad);
        CHECK_FALSE(text::parse_civil_time(bad));
    }
}
