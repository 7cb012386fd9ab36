#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gateway/http/exchange.h"

namespace gateway {

/// Which web pages' scripts may read our answers (the fetch standard's CORS protocol). Immutable: any thread.
class Cors {
public:
    /// No page may.
    Cors() = default;
    /// `origins`: exact ones ("https://chat.example.org", "http://localhost:3000"), or "*" for every page. Credentials
    /// (cookies, HTTP authentication kept by a browser) are for exact ones only.
    /// Error: invalid_argument for what no browser would send as an origin: a path, a pattern, no scheme.
    static base::Result<Cors> make(const std::vector<std::string>& origins);

    /// Whether a page of `origin` may ask.
    bool allows(std::string_view origin) const { return allowed(origin) != Allowed::no; }
    /// For every answer, refusals and streams too, to a request from `origin` (empty: it named none).
    HttpFields answer_fields(std::string_view origin) const;
    /// What the answer to a preflight, a browser's question before a request, has besides answer_fields(). Empty where
    /// `head` is none, or of a page that may not ask. `methods`: of the route, as in Allow.
    HttpFields preflight_fields(const RequestHead& head, std::string_view methods) const;

private:
    enum class Allowed { no, anyone, by_name };
    Allowed allowed(std::string_view origin) const;

    bool any_ = false;
    std::vector<std::string> origins_;
};

}  // namespace gateway
