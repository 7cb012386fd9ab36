#include "cli/man_page.h"

#include <string_view>

namespace cli {
namespace {

/// As roff takes it: no line is a request, a hyphen is a minus (it can be searched for and copied), no escapes.
std::string text_of(std::string_view text) {
    std::string made;
    bool begins_line = true;
    for (const char c : text) {
        if (begins_line && (c == '.' || c == '\'')) { made += "\\&"; }
        begins_line = c == '\n';
        switch (c) {
            case '\\':
                made += "\\e";
                break;
            case '-':
                made += "\\-";
                break;
            case '"':
                made += "\\(dq";
                break;
            default:
                made += c;
        }
    }
    return made;
}

/// "--set, -s TEXT", or the name of an argument.
std::string heading_of(const CLI::Option& option) {
    std::string names;
    const auto add = [&names](const std::string& name) {
        names += (names.empty() ? "\\fB" : ", \\fB") + text_of(name) + "\\fR";
    };
    if (option.get_positional()) { add(option.get_name(true)); }
    for (const std::string& name : option.get_lnames()) {
        add("--" + name);
    }
    for (const std::string& name : option.get_snames()) {
        add("-" + name);
    }
    if (option.get_type_size() != 0 && !option.get_type_name().empty()) {
        names += " \\fI" + text_of(option.get_type_name()) + "\\fR";
    }
    return names;
}

void add_options(const CLI::App& app, std::string& page) {
    for (const CLI::Option* option : app.get_options()) {
        if (option->get_group().empty()) { continue; }  // hidden
        page += ".TP\n" + heading_of(*option) + "\n" + text_of(option->get_description());
        if (option->get_required()) { page += " (required)"; }
        if (!option->get_default_str().empty()) { page += " (default: " + text_of(option->get_default_str()) + ")"; }
        page += "\n";
    }
}

void add_command(const CLI::App& app, const std::string& name, std::string& page) {
    page += ".SS \"" + text_of(name) + "\"\n" + text_of(app.get_description()) + "\n";
    add_options(app, page);
    for (const CLI::App* below : app.get_subcommands([](const CLI::App* one) { return !one->get_name().empty(); })) {
        add_command(*below, name + " " + below->get_name(), page);
    }
}

}  // namespace

std::string man_page(const CLI::App& app, const std::string& version) {
    std::string page = ".TH SLUICE 1 \"\" \"sluice " + text_of(version) + "\" \"Sluice\"\n";
    page += ".SH NAME\nsluice \\- serve large language models, prefill and decode on separate pools\n";
    page += ".SH SYNOPSIS\n\\fBsluice\\fR \\fICOMMAND\\fR [\\fIflags\\fR]\n";
    page += ".SH DESCRIPTION\n" + text_of(app.get_description()) +
            "\nSettings are of YAML files (\\-\\-config) and \\-\\-set; \\fBsluice config schema\\fR and "
            "\\fBsluice config print\\fR tell all of them.\n";
    page += ".SH COMMANDS\n";
    for (const CLI::App* one : app.get_subcommands([](const CLI::App* sub) { return !sub->get_name().empty(); })) {
        add_command(*one, "sluice " + one->get_name(), page);
    }
    page += ".SH OPTIONS\n";
    add_options(app, page);
    page +=
        ".SH EXIT STATUS\n0: done. 2: a command line, a setting or a file that does not do. 130: interrupted. 1: "
        "anything else; the message says what.\n"
        ".SH ENVIRONMENT\n.TP\n\\fBSLUICE_CLUSTER_KEY\\fR\n32 hexadecimal digits by which the processes of a cluster "
        "know each other, where no file names them (cluster.key_file).\n"
        ".TP\n\\fBSLUICE_MODELS\\fR\nthe folder of models that were pulled.\n";
    return page;
}

}  // namespace cli
