#include "gateway/batch/batch_options.h"

#include <limits>

namespace gateway {

BatchOptions BatchOptions::read(base::Config& config) {
    BatchOptions options;
    const auto count = [&config](std::string_view key, std::size_t fallback, std::int64_t high) {
        return static_cast<std::size_t>(config.integer(key, static_cast<std::int64_t>(fallback), 1, high));
    };
    options.file = config.string("batch.file", options.file);
    options.bytes_max =
        static_cast<std::uint64_t>(config.integer("batch.bytes_max", static_cast<std::int64_t>(options.bytes_max),
                                                  1 << 20, std::numeric_limits<std::int64_t>::max()));
    options.files_max = count("batch.files_max", options.files_max, 1'000'000);
    options.unfinished_max = count("batch.unfinished_max", options.unfinished_max, 10'000);
    options.requests_max = count("batch.requests_max", options.requests_max, 1'000'000);
    options.requests_at_once = count("batch.requests_at_once", options.requests_at_once, 4096);
    options.slo_class = config.string("batch.slo_class", options.slo_class);
    return options;
}

}  // namespace gateway
