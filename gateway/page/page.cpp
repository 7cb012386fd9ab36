#include "gateway/page/page.h"

#include <algorithm>
#include <array>
#include <string>

// The assembler puts each file between two symbols. SLUICE_PAGE_FOLDER is gateway/page/ of the sources
// (CMakeLists.txt).
#define SLUICE_PAGE_FILE(symbol, name)                                                \
    asm(".section .rodata\n"                                                          \
        "sluice_page_" #symbol                                                        \
        ":\n"                                                                         \
        ".incbin \"" SLUICE_PAGE_FOLDER "/" name                                      \
        "\"\n"                                                                        \
        "sluice_page_" #symbol                                                        \
        "_end:\n"                                                                     \
        ".global sluice_page_" #symbol ", sluice_page_" #symbol "_end\n.previous\n"); \
    extern "C" const char sluice_page_##symbol[];                                     \
    extern "C" const char sluice_page_##symbol##_end[]

SLUICE_PAGE_FILE(index, "index.html");
SLUICE_PAGE_FILE(style, "style.css");
SLUICE_PAGE_FILE(icon, "icon.svg");
SLUICE_PAGE_FILE(main, "main.mjs");
SLUICE_PAGE_FILE(conversation, "conversation.mjs");
SLUICE_PAGE_FILE(events, "events.mjs");
SLUICE_PAGE_FILE(figures, "figures.mjs");
SLUICE_PAGE_FILE(markdown, "markdown.mjs");
SLUICE_PAGE_FILE(snippets, "snippets.mjs");

namespace gateway {
namespace {

struct File {
    std::string_view route;
    std::string_view type;
    const char* begin;
    const char* end;
};

#define SLUICE_BYTES(symbol) sluice_page_##symbol, sluice_page_##symbol##_end

constexpr std::string_view kHtml = "text/html; charset=utf-8";
constexpr std::string_view kScript = "text/javascript; charset=utf-8";

const std::array<File, 9>& files() {
    static const std::array<File, 9> kFiles{{
        {"/", kHtml, SLUICE_BYTES(index)},
        {"/page/style.css", "text/css; charset=utf-8", SLUICE_BYTES(style)},
        {"/page/icon.svg", "image/svg+xml", SLUICE_BYTES(icon)},
        {"/page/main.mjs", kScript, SLUICE_BYTES(main)},
        {"/page/conversation.mjs", kScript, SLUICE_BYTES(conversation)},
        {"/page/events.mjs", kScript, SLUICE_BYTES(events)},
        {"/page/figures.mjs", kScript, SLUICE_BYTES(figures)},
        {"/page/markdown.mjs", kScript, SLUICE_BYTES(markdown)},
        {"/page/snippets.mjs", kScript, SLUICE_BYTES(snippets)},
    }};
    return kFiles;
}

const File* find(std::string_view route) {
    const auto at = std::find_if(files().begin(), files().end(), [&](const File& file) { return file.route == route; });
    return at == files().end() ? nullptr : &*at;
}

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

}  // namespace

bool is_page_file(std::string_view route) {
    return find(route) != nullptr;
}

std::optional<HttpResponse> page_file(std::string_view route) {
    const File* const at = find(route);
    if (at == nullptr) { return std::nullopt; }
    return HttpResponse{.status = 200,
                        .content_type = std::string(at->type),
                        .fields = {{"Content-Security-Policy", kPolicy},
                                   {"X-Content-Type-Options", "nosniff"},
                                   {"Referrer-Policy", "no-referrer"},
                                   {"Cache-Control", "no-cache"}},
                        .body = std::string(at->begin, at->end)};
}

}  // namespace gateway
