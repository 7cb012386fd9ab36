#pragma once

#include <optional>
#include <string_view>

#include "gateway/http/exchange.h"

namespace gateway {

/// The page for people at `/`: a chat with the models that this server has. Its files are part of the program
/// (index.html and what it names below /page/), need nothing from elsewhere and no build. Immutable: any thread.
///
/// The answer for `route` (path without the version); nothing where no file of the page has that name. Scripts and
/// styles may come from this server alone, and no other page may frame it (Content-Security-Policy).
std::optional<HttpResponse> page_file(std::string_view route);
bool is_page_file(std::string_view route);

/// The same for the fleet page at `/fleet`: what the processes of a cluster do, for operators (cli/fleet_desk.h).
std::optional<HttpResponse> fleet_page_file(std::string_view route);
bool is_fleet_page_file(std::string_view route);

}  // namespace gateway
