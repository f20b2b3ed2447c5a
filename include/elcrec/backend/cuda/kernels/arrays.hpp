#pragma once

#include "elcrec/backend/cuda/kernels/packs.hpp"

/// One launch for many arrays: the parameters of a model are some dozens of small ones, and a launch costs as long as
/// 10 MB of memory traffic.
namespace elcrec::inline ELCREC_TARGET::cuda {

/// As many as fit the 4 KB of a kernel's arguments.
inline constexpr int most_arrays = 64;

/// f.template operator()<N>(array, i) for every pack of N elements, i the first one's number.
template <class T, int N, class Array, class F>
struct ArraysKernel {
  static constexpr int max_threads = 256;
  Array arrays[most_arrays];
  int ends[most_arrays];  // blocks that the arrays up to this one take
  F f;

  __device__ void operator()() const {
    int which = 0;
    while (block_x() >= ends[which]) {
      ++which;
    }
    const int begin = which == 0 ? 0 : ends[which - 1];
    const Index i = (Index{block_x() - begin} * threads_x() + thread_x()) * N;
    if (i < arrays[which].size()) {
      f.template operator()<N>(arrays[which], i);
    }
  }
};

/// Collects arrays and launches f for them. An Array has size(), and has_packs(): whether it is made of whole, aligned
/// packs of 16 bytes.
template <class T, class Array, class F>
class ArraysLauncher {
 public:
  ArraysLauncher(const Stream& stream, F f) : stream_(stream), f_(f) {}

  void add(const Array& array) {
    if (array.size() > 0) {
      arrays_[count_++] = array;
      packed_ = packed_ && array.has_packs();
      if (count_ == most_arrays) {
        flush();
      }
    }
  }

  /// Launches for what was added since the last launch.
  void flush() {
    with_pack_width<T>(packed_, [&](auto n) {
      using Kernel = ArraysKernel<T, n, Array, F>;
      static_assert(sizeof(Kernel) <= 4096);
      Kernel kernel{{}, {}, f_};
      Index blocks = 0;
      for (int a = 0; a < count_; ++a) {
        blocks += blocks_for(arrays_[a].size(), n * Index{Kernel::max_threads});
        kernel.arrays[a] = arrays_[a];
        kernel.ends[a] = static_cast<int>(blocks);
      }
      launch(stream_, {.x = blocks}, {.x = Kernel::max_threads}, 0, kernel);
    });
    count_ = 0;
    packed_ = true;
  }

 private:
  const Stream& stream_;
  F f_;
  Array arrays_[most_arrays];
  int count_ = 0;
  bool packed_ = true;
};

}  // namespace elcrec::inline ELCREC_TARGET::cuda
