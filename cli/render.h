#pragma once

#include <filesystem>
#include <iosfwd>
#include <string>

namespace CLI {
class App;
}

namespace cli {

struct RenderOptions {
    std::filesystem::path path{};  // a model's folder or one template file
    std::string now{};             // what strftime_now sees; empty: the machine's local time
};

/// Adds `sluice render` to `root`; the options must live as long as it.
CLI::App* add_render_command(CLI::App& root, RenderOptions& options);

/// Answers each JSON line of `in` (the template's variables, or an object with these as `context`) with {"rendered":
/// ..} or {"error": ..} on `out`, flushed. An exception that the template raised reads "TemplateError: ...". Returns
/// the exit status: 0, or 1 when there is no template or `now` is no time (said on stderr).
int render_lines(const RenderOptions& options, std::istream& in, std::ostream& out);

/// render_lines on stdin and stdout.
int render_main(const RenderOptions& options);

}  // namespace cli
