#include "caching/semantic/saved_question.h"

#include <utility>

#include "caching/semantic/bytes.h"

namespace caching {

std::string bytes_of(const TextProfile& profile) {
    ByteWriter bytes;
    for (const auto* list : {&profile.content, &profile.numbers, &profile.identifiers, &profile.names, &profile.all,
                             &profile.times, &profile.directed}) {
        bytes.list(*list);
    }
    bytes.list(profile.poles);
    bytes.number(profile.negations);
    return bytes.take();
}

bool read_profile(std::string_view bytes, TextProfile& profile) {
    ByteReader reader(bytes);
    TextProfile read;
    for (auto* list :
         {&read.content, &read.numbers, &read.identifiers, &read.names, &read.all, &read.times, &read.directed}) {
        *list = reader.list<std::vector<std::uint32_t>>();
    }
    read.poles = reader.list<std::vector<std::int32_t>>();
    read.negations = reader.number<std::uint32_t>();
    if (!reader.at_end()) { return false; }
    profile = std::move(read);
    return true;
}

}  // namespace caching
