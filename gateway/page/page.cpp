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
SLUICE_PAGE_FILE(shared, "shared.mjs");
SLUICE_PAGE_FILE(main, "main.mjs");
SLUICE_PAGE_FILE(conversation, "conversation.mjs");
SLUICE_PAGE_FILE(events, "events.mjs");
SLUICE_PAGE_FILE(figures, "figures.mjs");
SLUICE_PAGE_FILE(markdown, "markdown.mjs");
SLUICE_PAGE_FILE(snippets, "snippets.mjs");
SLUICE_PAGE_FILE(fleet_index, "fleet/index.html");
SLUICE_PAGE_FILE(fleet_style, "fleet/style.css");
SLUICE_PAGE_FILE(fleet_main, "fleet/main.mjs");
SLUICE_PAGE_FILE(fleet_tables, "fleet/tables.mjs");
SLUICE_PAGE_FILE(fleet_words, "fleet/words.mjs");

namespace gateway {
namespace {

struct File {
    bool is_of_chat;
    bool is_of_fleet;
    std::string_view route;
    std::string_view type;
    const char* begin;
    const char* end;
};

#define SLUICE_BYTES(symbol) sluice_page_##symbol, sluice_page_##symbol##_end

constexpr std::string_view kHtml = "text/html; charset=utf-8";
constexpr std::string_view kScript = "text/javascript; charset=utf-8";

constexpr std::string_view kStyle = "text/css; charset=utf-8";

const std::array<File, 15>& files() {
    static const std::array<File, 15> kFiles{{
        {true, false, "/", kHtml, SLUICE_BYTES(index)},
        {true, true, "/page/style.css", kStyle, SLUICE_BYTES(style)},
        {true, true, "/page/icon.svg", "image/svg+xml", SLUICE_BYTES(icon)},
        {true, true, "/page/shared.mjs", kScript, SLUICE_BYTES(shared)},
        {true, false, "/page/main.mjs", kScript, SLUICE_BYTES(main)},
        {true, false, "/page/conversation.mjs", kScript, SLUICE_BYTES(conversation)},
        {true, false, "/page/events.mjs", kScript, SLUICE_BYTES(events)},
        {true, false, "/page/figures.mjs", kScript, SLUICE_BYTES(figures)},
        {true, false, "/page/markdown.mjs", kScript, SLUICE_BYTES(markdown)},
        {true, false, "/page/snippets.mjs", kScript, SLUICE_BYTES(snippets)},
        {false, true, "/fleet", kHtml, SLUICE_BYTES(fleet_index)},
        {false, true, "/page/fleet/style.css", kStyle, SLUICE_BYTES(fleet_style)},
        {false, true, "/page/fleet/main.mjs", kScript, SLUICE_BYTES(fleet_main)},
        {false, true, "/page/fleet/tables.mjs", kScript, SLUICE_BYTES(fleet_tables)},
        {false, true, "/page/fleet/words.mjs", kScript, SLUICE_BYTES(fleet_words)},
    }};
    return kFiles;
}

const File* find(std::string_view route, bool File::* is_of_page) {
    const auto at = std::find_if(files().begin(), files().end(),
                                 [&](const File& file) { return file.route == route && file.*is_of_page; });
    return at == files().end() ? nullptr : &*at;
}

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

std::optional<HttpResponse> answer(const File* file) {
    if (file == nullptr) { return std::nullopt; }
    return HttpResponse{.status = 200,
                        .content_type = std::string(file->type),
                        .fields = {{"Content-Security-Policy", kPolicy},
                                   {"X-Content-Type-Options", "nosniff"},
                                   {"Referrer-Policy", "no-referrer"},
                                   {"Cache-Control", "no-cache"}},
                        .body = std::string(file->begin, file->end)};
}

}  // namespace

bool is_page_file(std::string_view route) {
    return find(route, &File::is_of_chat) != nullptr;
}

std::optional<HttpResponse> page_file(std::string_view route) {
    return answer(find(route, &File::is_of_chat));
}

bool is_fleet_page_file(std::string_view route) {
    return find(route, &File::is_of_fleet) != nullptr;
}

std::optional<HttpResponse> fleet_page_file(std::string_view route) {
    return answer(find(route, &File::is_of_fleet));
}

}  // namespace gateway
