#include "grid.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>
#include <vector>

#include <cxxabi.h>

#include "elcrec/core/error.hpp"
#include "fiber.hpp"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_emulation {

namespace {

using elcrec::message;

constexpr unsigned warp = 32;
constexpr unsigned named_barriers = 16;

// How places and threads are written. They own nothing: what a thread that fails has on its stack is never destroyed.
struct Place {
  const Site& site;
  friend std::ostream& operator<<(std::ostream& out, const Place& p) {
    const std::string_view file = p.site.file_name();
    return out << file.substr(file.rfind('/') + 1) << ":" << p.site.line();
  }
};
struct Number {
  uint3 i;
  friend std::ostream& operator<<(std::ostream& out, const Number& n) {
    return out << "(" << n.i.x << ", " << n.i.y << ", " << n.i.z << ")";
  }
};
bool same(const Site& a, const Site& b) { return a.line() == b.line() && a.column() == b.column(); }

/// A thread of the running block.
struct Thread {
  enum class State { ready, at_barrier, at_warp, done };

  Fiber fiber;
  State state = State::done;
  uint3 index{};
  Site site;  // of what it waits at
  // What it brought to its warp and what it takes away.
  std::uint32_t mask = 0;
  std::uint64_t value = 0;
  unsigned source = 0;
  Exchange result{};
  unsigned barrier = 0;
};

/// Lanes of a warp, as bits.
struct Lanes {
  std::uint32_t waiting = 0;  ///< at a warp operation
  std::uint32_t ended = 0;
};

struct Barrier {
  unsigned arrived = 0;
  unsigned expected = 0;
};

class Block {
 public:
  void run(const Kernel& kernel, uint3 block, Order order) {
    reset(kernel, block);
    const auto each = [order](unsigned count, auto f) {
      for (unsigned i = 0; i < count; ++i) {
        f(order == Order::forward ? i : count - 1 - i);
      }
    };
    while (finished_ < count_) {
      progress_ = false;
      each((count_ + warp - 1) / warp, [&](unsigned w) {
        const unsigned lanes = std::min(warp, count_ - w * warp);
        // Lanes that met are ready again, and go on before the next warp starts.
        for (bool any = true; any;) {
          any = false;
          each(lanes, [&](unsigned lane) {
            Thread& t = *threads_[w * warp + lane];
            if (t.state == Thread::State::ready) {
              any = progress_ = true;
              resume(t);
            }
          });
        }
      });
      if (!progress_) {
        throw KernelError(stuck());
      }
    }
    current_ = nullptr;
  }

  void barrier(unsigned id, unsigned threads, const Site& site) {
    Thread& self = *current_;
    Barrier& b = barriers_.at(id);
    const unsigned expected = threads == 0 ? count_ : threads;
    if (b.arrived == 0) {
      b.expected = expected;
    }
    self.state = Thread::State::at_barrier;
    self.barrier = id;
    self.site = site;
    if (b.expected != expected) {
      fail("barrier ", id, " at ", Place{site}, " waits for ", expected, " threads, where others wait for ",
           b.expected);
    }
    if (++b.arrived == expected) {
      b.arrived = 0;
      for (unsigned i = 0; i < count_; ++i) {
        Thread& t = *threads_[i];
        if (t.state == Thread::State::at_barrier && t.barrier == id) {
          if (id == 0 && !same(t.site, site)) {
            fail("divergent barrier: thread ", Number{t.index}, " waits at ", Place{t.site}, ", thread ",
                 Number{self.index}, " at ", Place{site});
          }
          t.state = Thread::State::ready;
        }
      }
    }
    Fiber::pause();
  }

  Exchange meet(std::uint32_t mask, std::uint64_t value, unsigned source, const Site& site) {
    Thread& self = *current_;
    const unsigned first = number_ / warp * warp;
    const unsigned lanes = std::min(warp, count_ - first);
    // Lanes that the block does not have count as absent.
    mask &= lanes == warp ? 0xFFFFFFFFU : (1U << lanes) - 1;
    if ((mask >> (number_ - first) & 1U) == 0) {
      fail("warp operation at ", Place{site}, ": the thread is not in its own mask");
    }
    self.state = Thread::State::at_warp;
    self.mask = mask;
    self.value = value;
    self.source = source;
    self.site = site;
    Lanes& warp_lanes = lanes_[number_ / warp];
    warp_lanes.waiting |= 1U << (number_ - first);
    const auto each = [&](std::uint32_t which, auto f) {
      for (; which != 0; which &= which - 1) {
        f(static_cast<unsigned>(__builtin_ctz(which)));
      }
    };
    if (const std::uint32_t ended = warp_lanes.ended & mask; ended != 0) {
      const Thread& t = *threads_[first + static_cast<unsigned>(__builtin_ctz(ended))];
      fail("divergent warp operation at ", Place{site}, ": thread ", Number{t.index}, " of the mask has ended");
    }
    if ((warp_lanes.waiting & mask) == mask) {
      std::uint32_t nonzero = 0;
      each(mask, [&](unsigned lane) {
        const Thread& t = *threads_[first + lane];
        if (t.mask != mask || !same(t.site, site)) {
          fail("divergent warp operation at ", Place{site}, ": thread ", Number{t.index}, " of the mask is at ",
               Place{t.site});
        }
        nonzero |= t.value != 0 ? 1U << lane : 0;
      });
      each(mask, [&](unsigned lane) {
        Thread& t = *threads_[first + lane];
        if (t.source >= warp || (mask >> t.source & 1U) == 0) {
          fail("shuffle at ", Place{site}, " reads lane ", t.source, ", which is not in the mask");
        }
        t.result = {threads_[first + t.source]->value, nonzero};
        t.state = Thread::State::ready;
      });
      warp_lanes.waiting &= ~mask;
    }
    Fiber::pause();  // so that lanes go on in their order
    return self.result;
  }

  [[nodiscard]] unsigned lane() const { return number_ % warp; }
  [[nodiscard]] bool running() const { return current_ != nullptr; }

 private:
  void reset(const Kernel& kernel, uint3 block) {
    if (failed_) {  // their stacks are in the middle of something
      threads_.clear();
      failed_ = false;
    }
    error_.reset();
    blockIdx = block;
    blockDim = kernel.block;
    gridDim = kernel.grid;
    count_ = kernel.block.x * kernel.block.y * kernel.block.z;
    finished_ = 0;
    barriers_ = {};
    lanes_ = {};
    while (threads_.size() < count_) {
      threads_.push_back(std::make_unique<Thread>());
    }
    for (unsigned i = 0; i < count_; ++i) {
      Thread& t = *threads_[i];
      t.state = Thread::State::ready;
      t.site = Site();
      t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
      t.fiber.start(kernel.function);
    }
  }

  void resume(Thread& t) {
    current_ = &t;
    number_ = t.index.x + blockDim.x * (t.index.y + blockDim.y * t.index.z);
    threadIdx = t.index;
    t.fiber.resume();
    if (error_) {
      failed_ = true;
      current_ = nullptr;
      throw KernelError(*error_);
    }
    if (t.fiber.finished()) {
      t.state = Thread::State::done;
      lanes_[number_ / warp].ended |= 1U << (number_ % warp);
      ++finished_;
    }
  }

  /// Ends the kernel. From a thread.
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... why) {
    error_ = message(why..., "; ", running_thread());
    Fiber::pause();
    std::abort();  // a failed block is not resumed
  }

  std::string stuck() {
    failed_ = true;
    std::string ended = "no thread ended";
    std::string waiting;
    for (unsigned i = 0; i < count_; ++i) {
      const Thread& t = *threads_[i];
      if (t.state == Thread::State::done) {
        ended = message("thread ", Number{t.index}, " has ended");
      } else if (waiting.empty() || t.state == Thread::State::at_barrier) {
        waiting = message("thread ", Number{t.index}, " waits at ", Place{t.site});
      }
    }
    current_ = nullptr;
    return message("divergent barrier: ", waiting, ", ", ended);
  }

  std::vector<std::unique_ptr<Thread>> threads_;
  std::array<Barrier, named_barriers> barriers_{};
  std::array<Lanes, 32> lanes_{};  // of each warp
  std::optional<std::string> error_;
  Thread* current_ = nullptr;
  unsigned number_ = 0;  // of the current thread in its block
  unsigned count_ = 0;
  unsigned finished_ = 0;
  bool progress_ = false;
  bool failed_ = false;
};

Block& the_block() {
  static auto* block = new Block;
  return *block;
}

Order current_order() {
  const char* wanted = std::getenv("CUDA_EMULATION_ORDER");
  return wanted != nullptr && std::string(wanted) == "reversed" ? Order::reversed : Order::forward;
}
Order order = current_order();

std::unique_ptr<std::max_align_t[]> shared_memory;
const char* kernel_name = "";

std::string demangled(const char* name) {
  int status = 0;
  char* readable = abi::__cxa_demangle(name, nullptr, nullptr, &status);
  std::string result = status == 0 ? readable : name;
  std::free(readable);
  return result;
}

}  // namespace

void set_order(Order o) { order = o; }

void run_grid(const Kernel& kernel) {
  kernel_name = kernel.name;
  const std::size_t blocks = std::size_t{kernel.grid.x} * kernel.grid.y * kernel.grid.z;
  for (std::size_t b = 0; b < blocks; ++b) {
    // Memory of its own for each block, of the very size, so that AddressSanitizer sees both ends.
    shared_memory = std::make_unique<std::max_align_t[]>((kernel.shared_bytes + sizeof(std::max_align_t) - 1) /
                                                         sizeof(std::max_align_t));
    std::fill_n(reinterpret_cast<unsigned char*>(shared_memory.get()), kernel.shared_bytes, 0xFF);
    const std::size_t i = order == Order::forward ? b : blocks - 1 - b;
    const auto x = static_cast<unsigned>(i % kernel.grid.x);
    const auto y = static_cast<unsigned>(i / kernel.grid.x % kernel.grid.y);
    const auto z = static_cast<unsigned>(i / kernel.grid.x / kernel.grid.y);
    the_block().run(kernel, {x, y, z}, order);
  }
}

std::string running_thread() {
  return the_block().running()
             ? message(demangled(kernel_name), ", block ", Number{blockIdx}, ", thread ", Number{threadIdx})
             : std::string();
}

void* dynamic_shared() { return shared_memory.get(); }
void barrier(unsigned id, unsigned threads, const Site& site) { the_block().barrier(id, threads, site); }
Exchange meet(std::uint32_t mask, std::uint64_t value, unsigned source, const Site& site) {
  return the_block().meet(mask, value, source, site);
}
unsigned lane_id() { return the_block().lane(); }

}  // namespace cuda_emulation
