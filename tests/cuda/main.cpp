// The main function of tests that need a CUDA device, emulated or real. Without one they count as skipped (exit code
// 77), not as passed. The emulation reports bad accesses itself, so doctest must leave the signals alone.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS
#include <iostream>

#include <cuda_runtime.h>
#include <doctest/doctest.h>

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::cout << "skipped: no CUDA device\n";
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
