#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>
#include <string>

#include <cuda_runtime.h>

namespace cuda_emulation {

/// A kernel did what no device promises to run: threads that wait for each other at different barriers, a shuffle that
/// reads a lane outside its mask.
class KernelError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

/// In which order blocks, warps and the threads between two barriers run. A kernel whose result depends on it has a
/// race.
enum class Order { forward, reversed };
void set_order(Order order);

struct Kernel {
  dim3 grid;
  dim3 block;
  std::size_t shared_bytes;
  std::function<void()> function;
  const char* name;  ///< as typeid gives it
};

/// Runs every block, one after the other. Throws KernelError.
void run_grid(const Kernel& kernel);

/// "NAME<...>, block (0, 0, 0), thread (5, 0, 0)" while a kernel runs, otherwise empty.
std::string running_thread();

}  // namespace cuda_emulation
