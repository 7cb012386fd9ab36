#include "caching/in_context/saved_example.h"

#include <cmath>
#include <span>
#include <string_view>

namespace caching {
namespace {

void add_number(std::string& bytes, std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
        bytes += static_cast<char>((value >> shift) & 0xff);
    }
}

void add_field(std::string& bytes, std::string_view field) {
    add_number(bytes, field.size());
    bytes += field;
}

bool is_share(double value) {
    return std::isfinite(value) && value >= 0 && value <= 1;
}

}  // namespace

bool ExampleStanding::is_possible() const {
    return std::isfinite(value) && value >= 0 && is_share(gain) && is_share(record) && is_share(answer_quality) &&
           std::isfinite(record_uses) && record_uses >= 0;
}

base::BlockHash seal_of(const SavedExample& example, const base::HashKey& key) {
    std::string bytes;
    add_field(bytes, "sluice saved example 1");
    for (const base::BlockHash& hash : {example.standing.exact, example.partition}) {
        add_number(bytes, hash.high);
        add_number(bytes, hash.low);
    }
    for (const std::string* field : {&example.tenant, &example.question, &example.answer, &example.revision}) {
        add_field(bytes, *field);
    }
    add_number(bytes, example.tags.size());
    for (const std::string& tag : example.tags) {
        add_field(bytes, tag);
    }
    add_number(bytes, static_cast<std::uint64_t>(example.created_unix_us));
    return base::keyed_hash(key, std::as_bytes(std::span(bytes)));
}

}  // namespace caching
