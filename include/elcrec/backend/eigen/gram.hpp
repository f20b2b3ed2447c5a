#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "elcrec/backend/eigen.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/gram_positions.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// Similarities of samples. On top of Products.
template <class Base>
class Gram : public Base {
 public:
  using T = typename Base::Scalar;
  using typename Base::In;
  using typename Base::Out;

  void gram(const GramIndex& index, In z, Index i0, Index i1, Index j0, Index j1, Out s) {
    const Out tile{s.row(i0) + j0, i1 - i0, j1 - j0, s.stride()};
    if (index.dense) {
      const In flat = elcrec::detail::flat_samples(index, z);
      this->multiply_nt(flat.slice_rows(i0, i1), flat.slice_rows(j0, j1), tile, Write::replace);
    } else {
      this->fill(tile, T(0));
      elcrec::detail::for_each_position(
          index, i0, i1, j0, j1, 0, index.positions, [&](auto is, auto it, auto js, auto jt) {
            const auto frame = this->workspace().frame();
            const Out zi = gathered(z, it);
            const Out zj = gathered(z, jt);
            const Out products = this->workspace().template matrix<T>(zi.rows(), zj.rows());
            this->multiply_nt(zi, zj, products, Write::replace);
            for (Index a = 0; a < products.rows(); ++a) {
              T* row = s.row(is[static_cast<std::size_t>(a)]);
              for (Index b = 0; b < products.cols(); ++b) {
                row[js[static_cast<std::size_t>(b)]] += products(a, b);
              }
            }
          });
    }
    if (i0 != j0) {
      const Out mirror{s.row(j0) + i0, j1 - j0, i1 - i0, s.stride()};
      for_each_block(tile, [&](Index r0, Index r1, Index c0, Index c1) {
        matrix(mirror, c0, c1, r0, r1) = matrix(tile, r0, r1, c0, c1).transpose();
      });
    }
  }

  void gram_backward(const GramIndex& index, In g, In z, Index i0, Index i1, Index p0, Index p1, Write write, Out dz) {
    if (index.dense) {
      const auto columns = [&](auto view) {
        return elcrec::detail::flat_samples(index, view).slice_cols(p0 * z.cols(), p1 * z.cols());
      };
      this->multiply_nn(g.slice_rows(i0, i1), columns(z), columns(dz).slice_rows(i0, i1), write);
      return;
    }
    elcrec::detail::for_each_position(index, i0, i1, 0, index.samples, p0, p1, [&](auto is, auto it, auto js, auto jt) {
      const auto frame = this->workspace().frame();
      const Out zj = gathered(z, jt);
      const Out gij = this->workspace().template matrix<T>(ssize(is), ssize(js));
      for (Index a = 0; a < gij.rows(); ++a) {
        const T* row = g.row(is[static_cast<std::size_t>(a)]);
        for (Index b = 0; b < gij.cols(); ++b) {
          gij(a, b) = row[js[static_cast<std::size_t>(b)]];
        }
      }
      const Out result = this->workspace().template matrix<T>(gij.rows(), z.cols());
      this->multiply_nn(gij, zj, result, Write::replace);
      for (Index a = 0; a < result.rows(); ++a) {
        T* row = dz.row(it[static_cast<std::size_t>(a)]);
        if (write == Write::add) {
          eigen::add_scaled(T(1), result.row(a), row, z.cols());
        } else {
          std::copy_n(result.row(a), z.cols(), row);
        }
      }
    });
  }

  void add_transposed(In s, Index i0, Index i1, Out g) const {
    const In columns = s.slice_cols(i0, i1);
    for_each_block(columns, [&](Index r0, Index r1, Index c0, Index c1) {
      matrix(g, c0, c1, r0, r1) = matrix(s, i0 + c0, i0 + c1, r0, r1) + matrix(columns, r0, r1, c0, c1).transpose();
    });
  }

 private:
  /// The block [r0, r1) x [c0, c1) of a view.
  template <class View>
  static auto matrix(View view, Index r0, Index r1, Index c0, Index c1) {
    return as_eigen(view.slice_rows(r0, r1).slice_cols(c0, c1));
  }

  /// f(r0, r1, c0, c1) for blocks that cover m, small enough that both they and their transposes stay in L1.
  template <class F>
  static void for_each_block(In m, F f) {
    constexpr Index block = 32;
    for (Index r = 0; r < m.rows(); r += block) {
      for (Index c = 0; c < m.cols(); c += block) {
        f(r, (std::min)(m.rows(), r + block), c, (std::min)(m.cols(), c + block));
      }
    }
  }

  Out gathered(In z, std::span<const std::int32_t> tokens) {
    const Out rows = this->workspace().template matrix<T>(ssize(tokens), z.cols());
    this->gather_rows(z, tokens, rows, Write::replace);
    return rows;
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
