#include "engine/model/packed_sections.h"

#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/parallel.h"

namespace engine {

std::span<const std::byte> checksum_table(std::span<const std::byte> file, const PackingPlan& plan) {
    CHECK(file.size() == packed_file_bytes(plan), file.size() << " bytes of " << packed_file_bytes(plan));
    return file.subspan(plan.file_bytes);
}

std::vector<std::string> find_damaged_sections(std::span<const std::byte> file, const PackingPlan& plan) {
    SectionChecksums expected(plan.items.size());
    std::memcpy(expected.data(), checksum_table(file, plan).data(), expected.size() * sizeof(std::uint32_t));
    SectionChecksums found(plan.items.size());
    base::parallel_for(plan.items.size(), [&](std::size_t i) {
        found[i] = base::crc32c(file.subspan(plan.items[i].offset, plan.items[i].bytes));
    });
    std::vector<std::string> damaged;
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i] != expected[i]) { damaged.push_back(plan.items[i].name); }
    }
    return damaged;
}

}  // namespace engine
