#pragma once

#include <cstdint>
#include <span>

#include "elcrec/backend/cuda/kernels/softmax.hpp"
#include "elcrec/core/matrix_view.hpp"

/// The loss of the rows of similarities (N, N) and its gradient: a block a row, which it reads twice and writes, 12 N
/// bytes (float), 2 N exponentials.
namespace elcrec::inline ELCREC_TARGET::cuda {

template <class T>
struct InfoNceKernel {
  static constexpr int max_threads = 256;
  const std::int32_t* labels;  // (N/2) or null
  T temperature;
  T weight;
  int i0;
  MatrixView<T> s;
  T* loss;

  __device__ void operator()() const {
    const int n = static_cast<int>(s.cols());
    const int half = n / 2;
    const int i = i0 + block_x();
    const int positive = (i + half) % n;
    T* const z = s.row(i);
    const auto competes = [&](int j) {
      return j != i && (labels == nullptr || j == positive || labels[i % half] != labels[j % half]);
    };
    const T at_positive = z[positive] / temperature;
    const auto total = block_exponential_sum<T>(n, [&](Index at) {
      const int j = static_cast<int>(at);
      return competes(j) ? z[j] / temperature : -infinity<T>;
    });
    const T factor = weight / (temperature * total.sum);
    for (int j = thread_x(); j < n; j += threads_x()) {
      const T share = competes(j) ? factor * std::exp(z[j] / temperature - total.largest) : T(0);
      z[j] = share - (j == positive ? weight / temperature : T(0));
    }
    if (thread_x() == 0) {
      loss[i] = total.logarithm() - at_positive;
    }
  }
};

template <class T>
void info_nce_rows(const Stream& stream, std::span<const std::int32_t> labels, T temperature, T weight, Index i0,
                   Index i1, MatrixView<T> s, MatrixView<T> loss) {
  using Kernel = InfoNceKernel<T>;
  launch(stream, {.x = i1 - i0}, {.x = Kernel::max_threads}, 0,
         Kernel{labels.empty() ? nullptr : labels.data(), temperature, weight, static_cast<int>(i0), s, loss.data()});
}

}  // namespace elcrec::inline ELCREC_TARGET::cuda
