#pragma once

#include <cuda_runtime_api.h>

/// Whether the next kernel may begin before the one before it in its stream has ended (programmatic dependent launch,
/// compute capability 9.0 and above). dependent_launch.cuh has the rules that make this safe; the numbers stay the same
/// bits. docs/decisions/0015-dependent-launch.md.
namespace engine::cuda {

/// While one lives, and `on`: launches of this thread are dependent, on whatever stream; all of them must go to one.
/// Except the first, and the first after interrupt_dependent_launches(): the device may be doing anything then.
class DependentLaunches {
public:
    explicit DependentLaunches(bool on);
    ~DependentLaunches();
    DependentLaunches(const DependentLaunches&) = delete;
    DependentLaunches& operator=(const DependentLaunches&) = delete;

private:
    bool was_on_;
};

/// Something else than a kernel of this folder has gone to the stream (a copy, an event, a kernel of a library), or
/// weights have been written: this thread's next launch waits for all of it before it begins.
void interrupt_dependent_launches();

/// For launch_kernel(): what the launch that comes now is to be; the one after it may be dependent.
bool take_dependent_launch();

/// *can: whether the kernels run on the current device as code that knows how to wait (compiled for compute capability
/// 9.0 or more). Without, a dependent launch would be a race.
cudaError_t can_launch_dependently(bool* can);

}  // namespace engine::cuda
