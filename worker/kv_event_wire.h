#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/kv_events.h"

namespace worker {

/// What all batches of one worker have in common.
struct KvEventForm {
    std::uint32_t block_tokens = 16;
    std::vector<std::string> mediums;  // by level
    std::uint32_t rank = 0;            // of the worker among those of its process
};

/// A batch as vLLM (0.24 and later) sends it, in MessagePack: [seconds, [events], rank], each event a map with its
/// "type" and fields by name. Every level of the batch must have a medium. Pure.
std::string kv_event_payload(const KvEventBatch& batch, const KvEventForm& form);

}  // namespace worker
