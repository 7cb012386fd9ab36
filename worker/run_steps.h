#pragma once

#include <stop_token>

#include "worker/step_loop.h"

namespace worker {

/// Drives the loop over its engine, on the calling thread, which becomes the step thread: while a step runs it waits
/// for its end or for commands, whatever comes first. Returns after `stop`: then the running step has been collected,
/// every sequence has its final answer (unavailable), and no transfer touches a block any more. A step or a transfer
/// that has not ended handoff_timeout later is given up: the step counts as one of a device that is lost. The engine
/// must be the loop's own, with no other caller and no open ticket.
void run_steps(StepLoop& loop, std::stop_token stop);

}  // namespace worker
