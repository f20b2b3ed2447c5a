// Preloaded into a program: allocation number ELCREC_FAILS, from 0, of those after the start of main throws
// std::bad_alloc. Before main nobody could catch it: the standard library and others have objects to make there.
#include <atomic>
#include <cstdlib>

#include <dlfcn.h>

#include "failing_new.hpp"

namespace {

std::atomic<long> left{-1};

using Main = int (*)(int, char**, char**);
Main program_main = nullptr;

int counting_main(int count, char** arguments, char** environment) {
  if (const char* text = std::getenv("ELCREC_FAILS")) {
    left = std::atol(text);
  }
  return program_main(count, arguments, environment);
}

}  // namespace

bool elcrec::test::allocation_fails(std::size_t) { return left.load() >= 0 && left-- == 0; }

// What the GNU C library starts a program by.
extern "C" int __libc_start_main(Main main, int count, char** arguments, Main init, void (*fini)(),
                                 void (*loader_fini)(), void* stack_end) {
  program_main = main;
  const auto start = reinterpret_cast<decltype(&__libc_start_main)>(::dlsym(RTLD_NEXT, "__libc_start_main"));
  return start(counting_main, count, arguments, init, fini, loader_fini, stack_end);
}
