#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/length_source.h"
#include "bench/load_generator.h"
#include "bench/openai_wire.h"
#include "bench/record.h"
#include "bench/serve.h"
#include "bench/workload.h"

namespace bench {

/// Everything that stays the same over the runs of a sweep.
struct Session {
    Target target;
    RequestForm form;
    SloTargets targets;
    PromptMaker::Options prompts;
    std::vector<PlannedRequest> trace;  // empty: synthetic
    std::vector<LengthSample> lengths;  // empty: as the options say
};

/// Conversations whose turns hold the real answers before them.
struct Conversations {
    std::vector<std::string> texts;  // what each request of the plan adds
    std::map<std::uint64_t, std::vector<Message>> messages;
};

LoadOptions load_options(const ServeBenchOptions& options, const Session& session);

/// `conversations` (may be null) gets what turns add. Requests that follow others have no body yet.
std::vector<LoadRequest> make_requests(const Session& session, std::span<const PlannedRequest> plan,
                                       Conversations* conversations = nullptr);

/// Sends the requests of `plan` one after the other. Error: unavailable when one fails, with what the server said.
base::Result<std::vector<RequestRecord>> run_in_turn(const ServeBenchOptions& options, const Session& session,
                                                     std::span<const LoadRequest> requests);

/// Reads what the options name, and asks the server for what they leave open. Error: invalid_argument for options that
/// contradict each other; those of files and of the server.
base::Result<Session> prepare(const ServeBenchOptions& options);

}  // namespace bench
