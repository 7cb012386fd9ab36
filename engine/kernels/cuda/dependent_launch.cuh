// How every kernel of this folder is launched and begins, so that it may be started while the kernel before it in its
// stream still runs (dependent_launch.h): its blocks are then in place, and W on its way, when that one ends.
//
// The rules
// 1. Every thread of every kernel begins with wait_for_previous() and then let_next_start(), before it reads or writes
//    any memory but its own block's, and before it can return. (translate.py of the emulator reads this off the source,
//    and the emulator stops at a thread that ends or lets the next start without having waited.)
// 2. Before the wait a kernel may read weights: nothing writes them while steps run. upload_weights() has waited for
//    its stream before the first step is launched, and whoever else writes some calls interrupt_dependent_launches().
//    They are load_before_wait(). Non-coherent loads (ld.global.nc, __ldg, const __restrict__) must only ever be of
//    weights: the compiler may move them over the wait, in either direction; it leaves other loads where they are.
// 3. A launch is dependent only where the work before it in the stream is a kernel of this folder. After a copy, an
//    event or a kernel of cuBLASLt comes an ordinary launch: nothing is assumed of when those let others start.
//
// Why that is enough. A, B, C are kernels that follow each other in a stream; "ended" is: all threads have ended, and
// what they wrote is seen by everybody. The wait returns when the kernel before has ended (PTX: all prerequisite grids
// have completed, and their memory operations are performed and made visible).
// - C's first thread runs only once each block of B has let it start, or has ended. By rule 1 a thread of that block
//   had waited by then, so A had ended. With that, whatever C does, A is no longer there, nor anything before A: an
//   ordinary launch begins after the end of all before, a dependent one after the end of all but the last, by
//   induction. At most two kernels run at a time, and the first blocks of C only take places that B leaves free.
// - C meets B alone, and only before C's wait: there C reads weights (rule 2), which B does not write. After its wait
//   B has ended too. So C reads what A and B have written (RAW), and writes what they have read or written after they
//   have done so (WAR, WAW), as with ordinary launches.
// - Threads and blocks with nothing to do (idle rows, tiles beyond the last) wait before they return (rule 1): B does
//   not end before A has, whatever its rows are, and neither does it let C start.
// - An ordinary launch, a copy, an event or the end of a graph after C begins when C has ended, and so have A and B.
// - A block of C that waits holds its place, but all blocks of B have theirs already, or have ended: nothing waits in a
//   circle.
// Recorded into a graph (stream capture, CUDA 12.3 and above) a dependent launch becomes a programmatic edge from the
// kernel before, which can only lie between two kernels; by rule 3 that is all that is asked for.
//
// On older GPUs both functions are empty: the host launches nothing dependently there (can_launch_dependently()).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "engine/kernels/cuda/dependent_launch.h"

namespace engine::cuda {

/// Until the kernel before has ended and what it wrote can be read; at once where the launch was ordinary.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel may begin once every block has said so.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Launches a kernel; dependently where this thread says so (DependentLaunches). Gives cudaGetLastError().
template <class... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                          cudaStream_t stream, std::type_identity_t<Parameters>... arguments) {
    if (!take_dependent_launch()) {
        kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
        return cudaGetLastError();
    }
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    const cudaLaunchConfig_t configuration{grid, block, shared_bytes, stream, &attribute, 1};
    const cudaError_t error = cudaLaunchKernelEx(&configuration, kernel, arguments...);
    const cudaError_t last = cudaGetLastError();
    return error == cudaSuccess ? last : error;
}

}  // namespace engine::cuda
