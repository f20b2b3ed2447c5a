#pragma once

#include "elcrec/backend/cpu/attention.hpp"
#include "elcrec/backend/cpu/dropout.hpp"
#include "elcrec/backend/cpu/gram.hpp"
#include "elcrec/backend/cpu/layer_norm.hpp"
#include "elcrec/backend/cpu/ranking.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/softmax.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET::cpu {

/// What the walks of backend/host/ do with rows, in registers.
template <class T>
struct Vector {
  using DropoutFactors = cpu::DropoutFactors<T>;
  using KeyRow = cpu::KeyRow<T>;

  template <class F>
  static void each(Index n, F f) {
    simd::each<T>(n, f);
  }
  static T dot(const T* a, const T* b, Index n) { return simd::dot(a, b, n); }
  static LargestAndSum<T> exponentials(T* z, Index n, T a) { return cpu::exponentials(z, n, a); }

  static T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
    return cpu::norm_row(x, gamma, beta, eps, d, hat, y);
  }
  static T add_norm_row(const T* x, const T* bias, const T* factors, const T* residual, const T* gamma, const T* beta,
                        T eps, Index d, T* hat, T* y) {
    return cpu::add_norm_row(x, bias, factors, residual, gamma, beta, eps, d, hat, y);
  }
  static void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
    cpu::norm_row_backward(hat, r, gamma, dy, d, dx, dgamma, dbeta);
  }

  static void score(CpuLane<T>& lane, Input<T> queries, Input<T> rows, Output<T> scores) {
    cpu::score<T>(lane, queries, rows, scores);
  }
  static constexpr Index ranking_block = 512;  ///< items that are scored at a time for all queries

  static void multiply_keys(CpuLane<T>& lane, Input<T> queries, Input<T> keys, Output<T> y) {
    cpu::multiply_keys(lane, queries, keys, y);
  }
  static void dot_rows(const T* query, MatrixView<const T> x, T* p) { cpu::dot_rows(query, x, p); }
  static void add_weighted_rows(const T* p, MatrixView<const T> x, T* y) { cpu::add_weighted_rows(p, x, y); }

  static void transpose(CpuLane<T>& lane, Input<T> from, Output<T> to) { cpu::transpose(lane, from, to); }
  static void add_transpose(CpuLane<T>& lane, Input<T> rows, Input<T> columns, Output<T> to) {
    cpu::add_transpose(lane, rows, columns, to);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::cpu
