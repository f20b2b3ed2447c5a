#pragma once

#include "elcrec/backend/eigen/attention.hpp"
#include "elcrec/backend/eigen/dropout.hpp"
#include "elcrec/backend/eigen/gram.hpp"
#include "elcrec/backend/eigen/layer_norm.hpp"
#include "elcrec/backend/eigen/packs.hpp"
#include "elcrec/backend/eigen/products.hpp"
#include "elcrec/backend/eigen/ranking.hpp"
#include "elcrec/backend/eigen/softmax.hpp"
#include "elcrec/core/matrix_view.hpp"

namespace elcrec::inline ELCREC_TARGET::eigen {

/// What the walks of backend/host/ do with rows, in packs.
template <class T>
struct Vector {
  using DropoutFactors = eigen::DropoutFactors<T>;
  using KeyRow = eigen::KeyRow<T>;

  template <class F>
  static void each(Index n, F f) {
    eigen::each<T>(n, f);
  }
  static T dot(const T* a, const T* b, Index n) { return eigen::dot(a, b, n); }
  static LargestAndSum<T> exponentials(T* z, Index n, T a) { return eigen::exponentials(z, n, a); }

  static T norm_row(const T* x, const T* gamma, const T* beta, T eps, Index d, T* hat, T* y) {
    return eigen::norm_row(x, gamma, beta, eps, d, hat, y);
  }
  static T add_norm_row(const T* x, const T* bias, const T* factors, const T* residual, const T* gamma, const T* beta,
                        T eps, Index d, T* hat, T* y) {
    return eigen::add_norm_row(x, bias, factors, residual, gamma, beta, eps, d, hat, y);
  }
  static void norm_row_backward(const T* hat, T r, const T* gamma, const T* dy, Index d, T* dx, T* dgamma, T* dbeta) {
    eigen::norm_row_backward(hat, r, gamma, dy, d, dx, dgamma, dbeta);
  }

  static void score(EigenLane<T>& lane, Input<T> queries, Input<T> rows, Output<T> scores) {
    eigen::score<T>(lane.workspace(), queries, rows, scores);
  }
  static constexpr Index ranking_block = ranked_block;  ///< items that are scored at a time for all queries

  static void multiply_keys(EigenLane<T>& lane, Input<T> queries, Input<T> keys, Output<T> y) {
    eigen::multiply_keys(lane, queries, keys, y);
  }
  static void dot_rows(const T* query, MatrixView<const T> x, T* p) { eigen::dot_rows(query, x, p); }
  static void add_weighted_rows(const T* p, MatrixView<const T> x, T* y) { eigen::add_weighted_rows(p, x, y); }

  static void transpose(EigenLane<T>&, Input<T> from, Output<T> to) { eigen::transpose(from, to); }
  static void add_transpose(EigenLane<T>&, Input<T> rows, Input<T> columns, Output<T> to) {
    eigen::add_transpose(rows, columns, to);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET::eigen
