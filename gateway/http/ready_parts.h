#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace gateway {

/// One of the things that have to be in order before a process takes work: what `/ready?verbose` tells of.
struct ReadyPart {
    std::string name;
    bool is_ready = true;
    std::string words = {};  // what it is about; empty: nothing to say
};
using ReadyParts = std::vector<ReadyPart>;

bool are_ready(std::span<const ReadyPart> parts);
/// A line for each part, `[+]NAME: WORDS` or, where it is not ready, `[-]`, and one for all: as Kubernetes' own
/// components tell it.
std::string ready_text(std::span<const ReadyPart> parts);
/// Whether a query as sent names `verbose`, with any value.
bool asks_for_parts(std::string_view query);

}  // namespace gateway
