#pragma once

#include <functional>
#include <string_view>

#include "gateway/cache/response_cache.h"
#include "gateway/http/exchange.h"
#include "gateway/request_log.h"

namespace gateway {

/// Where the operators' routes of the cache begin, without the version:
///   GET  /cache            what it holds, saved and got wrong
///   GET  /cache/entries    the answers themselves, used last first; ?tenant= ?tag= ?revision= ?limit= ?text=true
///   GET  /cache/examples   what a small model is shown, the most valuable first; the same query
///   POST /cache/purge      {"entry"|"tenant"|"tag"|"revision"|"older_than_s"|"near_text"|"all": .., "dry_run": bool}
inline constexpr std::string_view kCachePath = "/cache";
inline constexpr std::string_view kCachePurgePath = "/cache/purge";
bool is_cache_route(std::string_view route);

/// Answers one of them by `done`, now or later. Errors: 403 for whoever does not ask from this machine (unless
/// caching.from_anywhere), 404 where the cache is off, 400. A purge is told in the log, with the key that asked for it.
void answer_cache(const HttpRequest& request, std::string_view route, const RequestTag& tag, ResponseCache* cache,
                  std::function<void(HttpResponse)> done);

}  // namespace gateway
