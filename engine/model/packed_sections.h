#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/model/weights.h"

// Checksums of a packed file: a CRC-32C for each item of the plan, in a table behind the last one. Internal to this
// folder.
namespace engine {

/// One for each item of a plan, in its order.
using SectionChecksums = std::vector<std::uint32_t>;

/// Of the whole file: what the plan says, then the table.
inline std::uint64_t packed_file_bytes(const PackingPlan& plan) {
    return plan.file_bytes + plan.items.size() * sizeof(std::uint32_t);
}

/// The table of a file of packed_file_bytes().
std::span<const std::byte> checksum_table(std::span<const std::byte> file, const PackingPlan& plan);

/// Reads all of the file, on all processors. Gives the names of the items ("layers.3.qkv") whose bytes are not those
/// that were written, in the plan's order.
std::vector<std::string> find_damaged_sections(std::span<const std::byte> file, const PackingPlan& plan);

}  // namespace engine
