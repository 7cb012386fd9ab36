// Makes the whole program one of the next minor version of the protocol (proto/version.h): what it says of itself has
// that number, and fields that nobody else knows. For tests of upgrades; linked in place of the product's
// proto/header.cpp, of which a second copy is here, with its make_header under another name.
#include <cstdio>

#include "proto/header.h"

namespace sluice::proto {

Header make_header_of_today(std::string_view model, std::uint64_t numerics_id);

Header make_header(std::string_view model, std::uint64_t numerics_id) {
    Header header = make_header_of_today(model, numerics_id);
    header.set_protocol_minor(kProtocolMinor + 1);
    auto* const unknown = header.GetReflection()->MutableUnknownFields(&header);
    unknown->AddVarint(1000, 7);
    unknown->AddLengthDelimited(1001, "of a later version");
    return header;
}

namespace {

[[maybe_unused]] const int kTold =
    std::fprintf(stderr, "speaks protocol %u.%u, which nobody has released\n", kProtocolVersion, kProtocolMinor + 1);

}  // namespace
}  // namespace sluice::proto
