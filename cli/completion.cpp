#include "cli/completion.h"

#include <algorithm>
#include <string_view>
#include <vector>

namespace cli {
namespace {

std::vector<const CLI::App*> subcommands_of(const CLI::App& app) {
    return app.get_subcommands([](const CLI::App* one) { return !one->get_name().empty(); });
}

/// What may follow: subcommands, and flags by their long names.
std::string words_of(const CLI::App& app) {
    std::string words;
    for (const CLI::App* one : subcommands_of(app)) {
        words += one->get_name() + " ";
    }
    for (const CLI::Option* option : app.get_options()) {
        for (const std::string& name : option->get_lnames()) {
            words += "--" + name + " ";
        }
    }
    if (!words.empty()) { words.pop_back(); }
    return words;
}

/// Lines of two `case`s: which words go deeper, and what may stand there.
void walk(const CLI::App& app, const std::string& at, std::string& deeper, std::string& choices) {
    choices += "    \"" + at + "\") words=\"" + words_of(app) + "\" ;;\n";
    for (const CLI::App* one : subcommands_of(app)) {
        const std::string below = at + " " + one->get_name();
        deeper += (deeper.empty() ? "" : " | ") + ("\"" + below + "\"");
        walk(*one, below, deeper, choices);
    }
}

std::string script_of_bash(const CLI::App& app) {
    std::string deeper;
    std::string choices;
    walk(app, "sluice", deeper, choices);
    return "_sluice() {\n"
           "  local at=sluice words=\"\" i\n"
           "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
           "    case \"$at ${COMP_WORDS[i]}\" in\n"
           "    " +
           deeper +
           ") at=\"$at ${COMP_WORDS[i]}\" ;;\n"
           "    esac\n"
           "  done\n"
           "  case \"$at\" in\n" +
           choices +
           "  esac\n"
           "  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"
           "}\n"
           "complete -o default -F _sluice sluice\n";
}

/// A word of fish in single quotes, within which only those and the backslash are escaped. One line, for its list.
std::string in_quotes(std::string_view text) {
    std::string word = "'";
    for (const char c : text) {
        if (c == '\'' || c == '\\') { word += '\\'; }
        word += c == '\n' ? ' ' : c;
    }
    return word + "'";
}

/// What may follow behind the command `at`: one `complete` each.
void add_fish_words(const CLI::App& app, const std::string& at, std::string& deeper, std::string& words) {
    const std::string begin = "complete -c sluice -n " + in_quotes("__sluice_is_at " + at);
    for (const CLI::App* one : subcommands_of(app)) {
        const std::string below = at + " " + one->get_name();
        words += begin + " -f -a " + one->get_name() + " -d " + in_quotes(one->get_description()) + "\n";
        deeper += " " + in_quotes(below);
    }
    for (const CLI::Option* option : app.get_options()) {
        std::string names;
        for (const std::string& name : option->get_lnames()) {
            names += " -l " + name;
        }
        for (const std::string& name : option->get_snames()) {
            names += " -s " + name;
        }
        if (names.empty()) { continue; }  // an argument: fish offers files
        const bool takes_value = option->get_type_size() != 0;
        words += begin + names + (takes_value ? " -r -F -d " : " -d ") + in_quotes(option->get_description()) + "\n";
    }
    for (const CLI::App* one : subcommands_of(app)) {
        add_fish_words(*one, at + " " + one->get_name(), deeper, words);
    }
}

std::string script_of_fish(const CLI::App& app) {
    std::string deeper;
    std::string words;
    add_fish_words(app, "sluice", deeper, words);
    return "function __sluice_is_at\n"
           "    set -l at sluice\n"
           "    set -l typed (commandline -opc)\n"
           "    for word in $typed[2..-1]\n"
           "        switch \"$at $word\"\n"
           "            case" +
           deeper +
           "\n"
           "                set at \"$at $word\"\n"
           "        end\n"
           "    end\n"
           "    test \"$at\" = \"$argv\"\n"
           "end\n"
           "complete -c sluice -e\n" +
           words;
}

}  // namespace

std::string completion_script(const CLI::App& app, Shell shell) {
    if (shell == Shell::fish) { return script_of_fish(app); }
    return (shell == Shell::zsh ? "autoload -U +X bashcompinit && bashcompinit\n" : "") + script_of_bash(app);
}

}  // namespace cli
