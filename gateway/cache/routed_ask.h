#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "caching/in_context/in_context_cache.h"
#include "gateway/http/exchange.h"

namespace gateway {

struct PreparedRequest;
struct RequestForm;

/// One request for a name that two models answer to: which of them does, and with what. Written by one thread after the
/// other: on a text thread, then on the I/O thread.
struct RoutedAsk {
    RoutedAsk();
    ~RoutedAsk();

    std::string model;  // that answers
    caching::Arm arm = caching::Arm::large;
    std::string_view why = {};  // quality, price, budget, forced, only; or why nothing was decided: history, tools,
                                // form, long, several, fallback
    std::size_t examples = 0;   // in its prompt
    std::uint64_t pack = 0;     // that the first of them are; 0: none

    std::string asked = {};  // the chat template's context as the client meant it: names the request at the cache
    std::shared_ptr<const caching::InContextQuestion> question = {};  // whose answer may become an example; null: not
    std::shared_ptr<const caching::InContextDecision> decision = {};  // null: nothing can be learnt from the answer
    std::vector<std::string> tags = {};                               // of the request: its example goes with them
    std::string revision_large = {};                                  // of the large model's weights

    // Between two stages.
    std::unique_ptr<RequestForm> plain = {};     // for the other model, without examples: where the chosen one cannot
    std::unique_ptr<RequestForm> compared = {};  // as the other model is asked, for comparison
    std::shared_ptr<const PreparedRequest> other = {};  // the latter, prepared

    /// The chosen model cannot answer: the other one does.
    void fall_back(std::string other_model);
    /// x-routed-model and so on, of the answer.
    HttpFields fields() const;
    /// In one word for logs: small+3, large.
    std::string word() const;
};

}  // namespace gateway
