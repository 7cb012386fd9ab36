#pragma once

#include <cstdint>
#include <string>

namespace cli {

/// Whether GET http://127.0.0.1:`port``target` is answered with 200. Blocks for 2 s at most.
bool answers_ok(std::uint16_t port, const std::string& target);

}  // namespace cli
