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

}  // namespace

std::string completion_script(const CLI::App& app, bool for_zsh) {
    std::string deeper;
    std::string choices;
    walk(app, "sluice", deeper, choices);
    std::string script = for_zsh ? "autoload -U +X bashcompinit && bashcompinit\n" : "";
    script +=
        "_sluice() {\n"
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
    return script;
}

}  // namespace cli
