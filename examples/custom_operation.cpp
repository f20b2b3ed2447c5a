// An operation added from outside the library, on the CPU and on CUDA: scores softly capped, as large language models
// cap their logits, y = c tanh(x / c), so that no confident score outgrows the others. An operation is a function whose
// first argument is a lane; the lane's type says which overload runs. The tests compile this file once for the CPU and
// once more against the emulation of CUDA, which defines CUSTOM_OPERATION_ON_CUDA; nvcc takes it as well.
#include <algorithm>
#include <array>
#include <cmath>
#include <iostream>
#include <span>
#include <type_traits>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/matrix.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/core/concepts.hpp"
#ifdef CUSTOM_OPERATION_ON_CUDA
#include "elcrec/backend/cuda.hpp"
#endif

namespace custom {

namespace el = elcrec;
using el::Index;

/// y = c tanh(x / c), as plain loops: on every lane that descends from ReferenceLane and has nothing of its own.
template <class T>
void softcap(el::ReferenceLane<T>&, std::type_identity_t<T> c, el::Input<T> x, el::Output<T> y) {
  for (Index r = 0; r < y.rows(); ++r) {
    std::transform(x.row(r), x.row(r) + x.cols(), y.row(r), [c](T v) { return c * std::tanh(v / c); });
  }
}

/// The same in registers.
template <class T>
void softcap(el::CpuLane<T>&, std::type_identity_t<T> c, el::Input<T> x, el::Output<T> y) {
  for (Index r = 0; r < y.rows(); ++r) {
    el::simd::each<T>(y.cols(),
                      [c, in = x.row(r), out = y.row(r)](auto at) { at.put(out, c * el::simd::tanh(at(in) / c)); });
  }
}

#ifdef CUSTOM_OPERATION_ON_CUDA
template <class T>
struct SoftcapKernel {
  T c;
  el::MatrixView<const T> x;
  el::MatrixView<T> y;

  __device__ void operator()() const {
    const Index i = el::cuda::global_thread();
    if (i < y.size()) {
      const Index r = i / y.cols();
      y(r, i % y.cols()) = c * std::tanh(x(r, i % y.cols()) / c);
    }
  }
};

template <class T>
void softcap(el::CudaLane<T>& lane, std::type_identity_t<T> c, el::Input<T> x, el::Output<T> y) {
  constexpr Index threads = 256;
  el::cuda::launch(lane.stream(), {.x = el::cuda::blocks_for(y.size(), threads)}, {.x = threads}, 0,
                   SoftcapKernel<T>{c, x, y});
}
#endif

/// What a part asks of a lane that it caps scores on.
template <class L>
concept Softcap = requires(L& lane, typename L::Scalar c, el::operation::In<L> x, el::operation::Out<L> y) {
  softcap(lane, c, x, y);
};

/// A part of a model, written once for all backends: scores (U, N) = users (U, D) · items (N, D)ᵀ, capped.
template <el::Backend B>
struct CappedHead {
  using Lane = typename B::Lane;
  static_assert(Softcap<Lane>, "CappedHead: the lane lacks the operation softcap");

  void forward(Lane& lane, el::operation::In<Lane> users, el::operation::In<Lane> items,
               el::operation::Out<Lane> scores) const {
    lane.multiply_nt(users, items, scores, el::Write::replace);
    softcap(lane, cap, scores, scores);
  }

  typename B::Scalar cap = 2;
};

/// Whether the head gives on a backend what the formula says: one user, one column.
template <class B>
bool works(const char* name) {
  using T = typename B::Scalar;
  const std::array<T, 9> items{0, 0.1F, -0.5F, 1, 2, -3, 4, 90, -1000};  // (9, 1)
  const std::array<T, 1> user{-1.5F};                                    // (1, 1)
  const B backend;
  el::Matrix<B> u(backend, 1, 1), v(backend, 9, 1), scores(backend, 1, 9);
  backend.template copy<T>(user, u.view().flat());
  backend.template copy<T>(items, v.view().flat());
  std::array<T, 9> found{};
  backend.parallel_for(1, [&](typename B::Lane& lane, Index) {
    CappedHead<B>().forward(lane, u.view(), v.view(), scores.view());
    lane.read(std::span<const T>(scores.view().flat()), std::span<T>(found));
  });
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double expected = 2 * std::tanh(static_cast<double>(user[0] * items[i]) / 2);
    worst = (std::max)(worst, std::abs(expected - static_cast<double>(found[i])));
  }
  std::cout << name << (worst < 1e-5 ? ": as expected\n" : ": wrong\n");
  return worst < 1e-5;
}

}  // namespace custom

int main() {
  bool all = custom::works<elcrec::Reference>("Reference") && custom::works<elcrec::Cpu>("Cpu");
#ifdef CUSTOM_OPERATION_ON_CUDA
  all = custom::works<elcrec::Cuda>("Cuda") && all;
#endif
  return all ? 0 : 1;
}
