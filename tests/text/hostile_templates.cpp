#include <cstddef>
#include <utility>

#include "tests/text/hostile.h"

namespace text_test {
namespace {

std::string times(const std::string& piece, std::size_t count) {
    std::string text;
    text.reserve(piece.size() * count);
    for (; count > 0; --count) {
        text += piece;
    }
    return text;
}

std::string named(const std::string& what, const std::string& piece, std::size_t count) {
    return what + " of " + std::to_string(count) + " '" + piece + "'";
}

void add_chains(std::vector<Hostile>& cases) {
    for (const std::size_t count : {3'000u, 60'000u}) {
        for (const char* piece : {"+1", "-1", "*1", "**1", "//1", "~'a'", " and 1", " or 0", "==1", "<1", " in [1]",
                                  " not in [1]", " if 1 else 2", "|string", ".a", "[0]", " is defined", "()"}) {
            cases.push_back({named("a chain", piece, count), "{{ 1" + times(piece, count) + " }}"});
        }
        for (const auto& [open, close] : std::vector<std::pair<const char*, const char*>>{{"not ", ""},
                                                                                          {"-", ""},
                                                                                          {"(", ")"},
                                                                                          {"[", "]"},
                                                                                          {"{'a':", "}"},
                                                                                          {"x(", ")"},
                                                                                          {"1 if (", ") else 2"}}) {
            cases.push_back(
                {named("nested", open, count), "{{ " + times(open, count) + "1" + times(close, count) + " }}"});
        }
        for (const auto& [open, close] :
             std::vector<std::pair<const char*, const char*>>{{"{% if 1 %}", "{% endif %}"},
                                                              {"{% for x in [1] %}", "{% endfor %}"},
                                                              {"{% set x %}", "{% endset %}"},
                                                              {"{% filter upper %}", "{% endfilter %}"},
                                                              {"{% macro m() %}", "{% endmacro %}"},
                                                              {"{% call m() %}", "{% endcall %}"}}) {
            const std::size_t blocks = count / 2;
            cases.push_back({named("nested", open, blocks), times(open, blocks) + "x" + times(close, blocks)});
        }
    }
    cases.push_back({"elif without an end", "{% if 0 %}" + times("{% elif 0 %}", 40'000) + "{% endif %}"});
    cases.push_back({"macros without an end", times("{% macro m() %}{% endmacro %}", 30'000)});
    cases.push_back({"tags that do not end", times("{% ", 100'000) + times("{{ ", 100'000) + times("{# ", 100'000)});
}

/// `step` puts into ns.x what it makes of it, round after round.
void add_growth(std::vector<Hostile>& cases) {
    for (const char* step :
         {"ns.x + ns.x", "ns.x ~ ns.x", "ns.x * 9", "[ns.x, ns.x] | join", "ns.x | replace('a', 'aaaa')",
          "ns.x.replace('a', 'aaaa')", "'%s%s' % (ns.x, ns.x)", "'{}{}'.format(ns.x, ns.x)", "ns.x.join(ns.x)",
          "ns.x | list | string", "ns.x | tojson | string", "ns.x | indent(999)", "ns.x | map('upper') | join(ns.x)",
          "ns.x | center(ns.x | length * 9)"}) {
        cases.push_back({std::string("growth by ") + step,
                         std::string("{% set ns = namespace(x='ab') %}{% for i in range(90) %}{% set ns.x = ") + step +
                             " %}{% endfor %}{{ ns.x | length }}"});
    }
    for (const char* step :
         {"ns.x + ns.x", "ns.x * 9", "[ns.x, ns.x]", "{'a': ns.x, 'b': ns.x}", "(ns.x, ns.x)", "ns.x + [ns.x]"}) {
        for (const char* last : {"ns.x | string", "ns.x | tojson", "ns.x == ns.x + []", "ns.x | sort | length",
                                 "ns.x | unique | list", "ns.x | pprint"}) {
            cases.push_back({std::string("growth of a list by ") + step + ", then " + last,
                             std::string("{% set ns = namespace(x=['ab']) %}{% for i in range(60) %}{% set ns.x = ") +
                                 step + " %}{% endfor %}{{ " + last + " }}"});
        }
    }
}

void add_widths(std::vector<Hostile>& cases) {
    for (const char* expression : {"'%2000000000d' % 1",
                                   "'%-2000000000s' % 'a'",
                                   "'%.2000000000f' % 1",
                                   "'%*d' % (2000000000, 1)",
                                   "'{:>2000000000}'.format(1)",
                                   "'{:2000000000d}'.format(1)",
                                   "'{:.2000000000f}'.format(1.5)",
                                   "'x' | center(2000000000)",
                                   "'x'.center(2000000000)",
                                   "'x'.ljust(2000000000)",
                                   "'x'.rjust(2000000000)",
                                   "'x'.zfill(2000000000)",
                                   "'x' | indent(2000000000)",
                                   "('a\\n' * 1000000) | indent(100000)",
                                   "'a' * 2000000000",
                                   "[1] * 2000000000",
                                   "(1,) * 2000000000",
                                   "range(2000000000) | list",
                                   "range(-9223372036854775807, 9223372036854775807)",
                                   "(range(99999) | list) * 99999",
                                   "'\\t'.expandtabs(2000000000)",
                                   "[1] | batch(2000000000, 0) | list",
                                   "[1] | slice(2000000000) | list",
                                   "1.5 | round(2000000000)",
                                   "[1] | tojson(indent=2000000000)",
                                   "2 ** 100000000",
                                   "10 ** 10 ** 10",
                                   "1 << 2000000000",
                                   "'x' | truncate(2000000000, leeway=2000000000)",
                                   "'a' | wordwrap(2000000000)",
                                   "strftime_now('%Y' * 3000000)",
                                   "'x'.split('') | length",
                                   "lipsum(2000000000)",
                                   "dict([1] * 2000000000)",
                                   "'%s' * 3000000 % ([1] * 3000000)",
                                   "'{:{}}'.format(1, 2000000000)"}) {
        cases.push_back({expression, std::string("{{ ") + expression + " }}"});
    }
}

void add_slow(std::vector<Hostile>& cases) {
    const std::string big =
        "{% set list = range(99999) | list %}{% set text = 'ab' * 1000000 %}{% set ns = namespace(x=0) %}";
    for (const char* expression : {"list | sort(reverse=true) | length",
                                   "list | unique | list | length",
                                   "list | groupby('real') | length",
                                   "list | map('string') | join | length",
                                   "list | tojson | length",
                                   "list | string | length",
                                   "list | reverse | list | length",
                                   "list | min",
                                   "list | sum",
                                   "list | random",
                                   "text.split('a') | length",
                                   "text | replace('a', 'bb') | length",
                                   "text.find('zz')",
                                   "text.count('ab')",
                                   "text | upper | length",
                                   "text | list | length",
                                   "text | reverse | length",
                                   "text | urlencode | length",
                                   "'zz' in text",
                                   "text.splitlines() | length",
                                   "list == list + [1]",
                                   "list in [list + [1]]",
                                   "text | wordcount",
                                   "text | title | length",
                                   "text | striptags | length",
                                   "text | escape | length",
                                   "list | select('in', list) | list | length",
                                   "list | reject('in', list) | list | length",
                                   "list | map('tojson') | list | length",
                                   "list | batch(1) | list | length",
                                   "(list + list) | length",
                                   "list[::-1] | length",
                                   "dict(list | map('string') | batch(2)) | length"}) {
        cases.push_back({std::string("for ever: ") + expression,
                         big + "{% for i in list %}{% for j in list %}{% set ns.x = " + expression +
                             " %}{% endfor %}{% endfor %}"});
    }
}

void add_recursion(std::vector<Hostile>& cases) {
    for (const char* source :
         {"{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
          "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
          "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n) }}{% endmacro %}{{ f(0) }}",
          "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(150) }}",
          "{% macro f() %}{{ caller() }}{% call f() %}{{ f() }}{% endcall %}{% endmacro %}{% call f() %}x{% endcall %}",
          "{% for x in [[]] recursive %}{{ loop([[x]]) }}{% endfor %}",
          "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
          "{% include 'chat_template' %}",
          "{% extends 'chat_template' %}",
          "{% import 'chat_template' as x %}{{ x }}",
          "{% block a %}{{ self.a() }}{% endblock %}",
          "{% macro f(n, x=f) %}{{ x(n, x) }}{% endmacro %}{{ f(1) }}",
          "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ ns | tojson }}{{ ns == ns }}",
          "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
          "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x | "
          "tojson }}",
          "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == "
          "[ns.x] }}",
          "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x | reverse %}{% endfor %}{{ ns.x "
          "| list }}",
          "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | map('string') %}{% endfor "
          "%}{{ ns.x | list }}",
          "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' }}{% endfor %}{% endfor %}",
          "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = raise %}{% endfor %}{% endfor %}"}) {
        cases.push_back({std::string("recursion: ") + source, source});
    }
}

}  // namespace

std::vector<Hostile> hostile_templates() {
    std::vector<Hostile> cases;
    add_chains(cases);
    add_growth(cases);
    add_widths(cases);
    add_slow(cases);
    add_recursion(cases);
    return cases;
}

}  // namespace text_test
