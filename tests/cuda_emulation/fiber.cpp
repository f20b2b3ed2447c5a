#include "fiber.hpp"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <system_error>

#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_EMULATION_ASAN 1
#endif
#endif
#ifdef CUDA_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace cuda_emulation {

namespace {

constexpr std::size_t stack_bytes = std::size_t{256} << 10;
constexpr std::size_t guard_bytes = 4096;

Fiber* running = nullptr;
void* outside = nullptr;  // where the caller of resume() stands

#ifdef CUDA_EMULATION_ASAN
const void* outside_stack = nullptr;
std::size_t outside_bytes = 0;
void leave_for(void** mine, const void* stack, std::size_t bytes) {
  __sanitizer_start_switch_fiber(mine, stack, bytes);
}
void arrive(void* mine, const void** from, std::size_t* bytes) { __sanitizer_finish_switch_fiber(mine, from, bytes); }
void forget(const void* stack) { __asan_unpoison_memory_region(stack, stack_bytes); }
#else
const void* outside_stack = nullptr;
std::size_t outside_bytes = 0;
void leave_for(void**, const void*, std::size_t) {}
void arrive(void*, const void**, std::size_t*) {}
void forget(const void*) {}
#endif

}  // namespace

#ifdef __x86_64__

// Saves the registers that a call must keep on the stack, changes stacks, restores the other side's. swapcontext would
// ask the kernel for the signal mask each time, which is a hundred times slower.
extern "C" void cuda_emulation_switch(void** save, void* load);
asm(R"(
  .text
  .type cuda_emulation_switch, @function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_emulation_switch, . - cuda_emulation_switch
)");

namespace {

void* new_state(std::byte* stack, std::size_t bytes, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // the return address of `entry`, which does not return
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) {
    *--top = nullptr;
  }
  return top;
}
void delete_state(void*) {}
void switch_to(void** save, void* load) { cuda_emulation_switch(save, load); }

}  // namespace

#else

namespace {

void* new_state(std::byte* stack, std::size_t bytes, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
void delete_state(void* state) { delete static_cast<ucontext_t*>(state); }
void switch_to(void** save, void* load) {
  if (*save == nullptr) {
    *save = new ucontext_t;
  }
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(load));
}

}  // namespace

#endif

Fiber::Fiber() {
  void* memory = mmap(nullptr, stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) {
    throw std::bad_alloc();
  }
  stack_ = static_cast<std::byte*>(memory) + guard_bytes;
  state_ = new_state(stack_, stack_bytes, &Fiber::entry);
}

Fiber::~Fiber() {
  delete_state(state_);
  forget(stack_);  // it may be in the middle of something
  munmap(stack_ - guard_bytes, stack_bytes + guard_bytes);
}

void Fiber::resume() {
  running = this;
  void* fake_stack = nullptr;
  leave_for(&fake_stack, stack_, stack_bytes);
  switch_to(&outside, state_);
  arrive(fake_stack, nullptr, nullptr);
  running = nullptr;
}

void Fiber::pause() {
  Fiber& self = *running;
  leave_for(&self.sanitizer_, outside_stack, outside_bytes);
  switch_to(&self.state_, outside);
  arrive(self.sanitizer_, &outside_stack, &outside_bytes);
}

void Fiber::entry() {
  arrive(nullptr, &outside_stack, &outside_bytes);
  for (;;) {
    (*running->function_)();
    running->finished_ = true;
    pause();
  }
}

}  // namespace cuda_emulation
