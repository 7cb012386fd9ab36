#pragma once

// What kernels reach of a datasheet. Internal to this folder.
namespace scheduler::planner {

// aiconfigurator's own correction for memory; products of large batches reach three quarters of the peak on A100 and
// H200 in its tables, attention half.
inline constexpr double kMemoryShare = 0.8;
inline constexpr double kProductShare = 0.75;
inline constexpr double kAttentionShare = 0.5;
inline constexpr double kLaunchSeconds = 2e-6;  // of one kernel in a recorded step
inline constexpr double kAttentionLaunchSeconds = 6e-6;

}  // namespace scheduler::planner
