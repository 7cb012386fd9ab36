#pragma once

#include "scheduler/options.h"

namespace scheduler {

/// Of classes, by name: the only option that may change while a scheduler runs.
using ClassRules = decltype(SchedulerOptions::classes);

}  // namespace scheduler
