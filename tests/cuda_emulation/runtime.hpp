#pragma once

#include <functional>

#include "grid.hpp"

/// What tests set and ask; the rest of the emulation is CUDA's own interface (include/cuda_runtime.h).
namespace cuda_emulation {

/// Devices that CUDA reports from now on; 0 for none. Two at first.
void set_device_count(int count);
/// Whether the driver is too old for the runtime.
void set_old_driver(bool old);

/// Enqueues work that is not written as a kernel but touches device memory like one.
cudaError_t enqueue_device_work(cudaStream_t stream, std::function<void()> work);

/// Kernels that were run so far, in the whole process.
long kernels_run();
/// Device allocations that live.
std::size_t live_allocations();

/// Writes a line to the error output when host code or a kernel touches device memory that it may not, then ends the
/// process by the signal. On from the first use of the emulation.
void report_faults();

}  // namespace cuda_emulation
