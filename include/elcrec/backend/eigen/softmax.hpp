#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// Exponentials of rows of logits. On top of Elementwise.
template <class Base>
class Softmax : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::Out;

  void exponentials(Out z, Out largest, Out sum) const {
    for (Index r = 0; r < z.rows(); ++r) {
      const auto found = exponentials_of(z.row(r), z.cols(), T(1));
      largest(0, r) = found.largest;
      sum(0, r) = found.sum;
    }
  }

  void info_nce(std::span<const std::int32_t> labels, T temperature, T weight, Index i0, Index i1, Out s,
                Out loss) const {
    constexpr T never = std::numeric_limits<T>::lowest();
    const Index half = s.cols() / 2;
    for (Index i = i0; i < i1; ++i) {
      const Index positive = (i + half) % s.cols();
      T* z = s.row(i);
      const T at_positive = z[positive] / temperature;
      z[i] = never;
      if (!labels.empty()) {
        const std::int32_t mine = labels[static_cast<std::size_t>(i % half)];
        for (Index j = 0; j < s.cols(); ++j) {
          if (j != positive && labels[static_cast<std::size_t>(j % half)] == mine) {
            z[j] = never;
          }
        }
      }
      const auto [largest, sum] = exponentials_of(z, s.cols(), T(1) / temperature);
      loss(0, i) = std::log(sum) + largest - at_positive;
      Base::scale_row(weight / (temperature * sum), z, s.cols());
      z[positive] -= weight / temperature;
    }
  }

 private:
  struct LargestAndSum {
    T largest;
    T sum;
  };

  /// z = exp(a z - max(a z)); returns the maximum of a z and the sum of the exponentials.
  static LargestAndSum exponentials_of(T* z, Index n, T a) {
    const T largest = a * largest_of(z, n);
    const T sum = sum_of<T>(n, [&](auto at) {
      at(z) = (a * at(z) - largest).exp();
      return at(z);
    });
    return {largest, sum};
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
