#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace base {

void check_failed(std::string_view condition, std::string_view file, int line, const std::string& message) {
    std::fprintf(stderr, "CHECK failed: %.*s at %.*s:%d%s%s\n", static_cast<int>(condition.size()), condition.data(),
                 static_cast<int>(file.size()), file.data(), line, message.empty() ? "" : ": ", message.c_str());
    std::fflush(stderr);
    std::abort();
}

}  // namespace base
