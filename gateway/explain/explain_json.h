#pragma once

#include <cstdint>
#include <string>

#include "gateway/explain/timeline_book.h"

namespace gateway {

/// A request's timeline as one JSON object: what was promised, predicted and measured, why a target was missed, and
/// its events in order. Times in milliseconds from the request's last byte. docs/explain.md lists the fields.
std::string timeline_json(const RequestTimeline& request);
/// What was missed over some time, by cause and by worker, and what would help.
std::string summary_json(const MissSummary& summary);

/// Of a worker or a sequence, as logs write it: 16 hexadecimal digits.
std::string hex_id(std::uint64_t id);

}  // namespace gateway
