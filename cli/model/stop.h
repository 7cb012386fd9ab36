#pragma once

#include <chrono>
#include <functional>

namespace cli::model {

/// True once the person wants it to end; asked often, from the thread that does the work.
using StopAsked = std::function<bool()>;

/// Waits for `duration`; false when asked to stop before it was over.
bool wait_unless_stopped(std::chrono::milliseconds duration, const StopAsked& stop_asked);

}  // namespace cli::model
