#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/block_hash.h"

namespace caching {

struct Message {
    std::string role;
    std::string content;
};

/// Everything of a request that an answer depends on.
struct Question {
    std::string tenant;
    std::string user;  // empty: shared inside the tenant
    std::string model;
    std::string revision;  // of the weights
    std::string adapter;
    std::string parameters;       // all sampling parameters that are set, in one fixed order
    std::string response_format;  // JSON
    std::string tools;            // JSON; empty: none
    std::vector<Message> messages;
    double temperature = 0;
    std::uint32_t choices = 1;
    bool logprobs = false;
    bool has_files = false;  // images, audio, files
    bool no_store = false;   // by Cache-Control
};

/// Why a question is neither looked up nor stored; none: it is.
enum class Uncacheable { none, no_store, empty, temperature, choices, logprobs, tools, files, agent, personal };
const char* reason_name(Uncacheable reason);

/// What the operator lets in beyond the default.
struct CacheRules {
    bool allow_temperature = false;
    bool allow_tools = false;     // exact tier only
    bool allow_personal = false;  // mail addresses, numbers of payment cards
};
Uncacheable why_not(const Question& question, const CacheRules& rules);

/// A mail address or the number of a payment card stands in it.
bool is_personal(std::string_view text);

/// Names of what must be equal, under the cluster's key, so that nobody can compute a neighbour's.
struct QuestionKeys {
    base::BlockHash partition;  // all but the last text of the user; blanks of the earlier turns made canonical
    base::BlockHash exact;      // the partition, and the last text with its blanks made canonical
};
QuestionKeys keys_of(const Question& question, std::string_view embedder, const base::HashKey& key);

/// The text that is compared: the last message, where it is the user's; else empty.
std::string_view asked(const Question& question);

}  // namespace caching
