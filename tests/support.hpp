#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/data/columns.hpp"
#include "elcrec/data/position_index.hpp"
#include "elcrec/data/token_batch.hpp"

/// What the tests of backends and components share. Backend memory is reached through allocate and copy only.
namespace elcrec::test {

/// What the library's error says when f throws one, or "no error".
template <class F>
[[nodiscard]] std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

template <class U, class B>
[[nodiscard]] auto to_device(const B& backend, const std::vector<U>& host) {
  auto buffer = backend.template allocate<U>(static_cast<Index>(host.size()));
  backend.template copy<U>(host, std::span<U>(buffer.data(), host.size()));
  return buffer;
}

template <class U, class B>
[[nodiscard]] std::vector<U> to_host(const B& backend, std::span<const U> device) {
  std::vector<U> host(device.size());
  backend.template copy<U>(device, std::span<U>(host));
  return host;
}

/// Elements of a matrix of any stride, row by row.
template <class B, class View>
[[nodiscard]] std::vector<double> to_host(const B& backend, View matrix) {
  using T = typename B::Scalar;
  std::vector<double> values;
  for (Index r = 0; r < matrix.rows(); ++r) {
    const auto row = to_host<T>(backend, std::span<const T>(matrix.row(r), static_cast<std::size_t>(matrix.cols())));
    values.insert(values.end(), row.begin(), row.end());
  }
  return values;
}

/// A matrix as it is in backend memory now, in double.
class HostCopy {
 public:
  template <class B, class View>
  HostCopy(const B& backend, View matrix)
      : values_(to_host(backend, matrix)), rows_(matrix.rows()), cols_(matrix.cols()) {}
  [[nodiscard]] double operator()(Index r, Index c) const { return row(r)[c]; }
  [[nodiscard]] const double* row(Index r) const { return values_.data() + r * cols_; }
  [[nodiscard]] MatrixView<const double> view() const { return {values_.data(), rows_, cols_}; }

 private:
  std::vector<double> values_;
  Index rows_;
  Index cols_;
};

/// Writes values in double to backend memory, row by row.
template <class B, class View>
void to_device(const B& backend, const std::vector<double>& values, View matrix) {
  using T = typename B::Scalar;
  for (Index r = 0; r < matrix.rows(); ++r) {
    const auto row = slice(std::span<const double>(values), r * matrix.cols(), (r + 1) * matrix.cols());
    backend.template copy<T>(std::vector<T>(row.begin(), row.end()),
                             std::span<T>(matrix.row(r), static_cast<std::size_t>(matrix.cols())));
  }
}

/// f(sum): what it adds to *sum, which is 0 at first and in backend memory.
template <class B, class F>
[[nodiscard]] double value_of(const B& backend, F f) {
  auto sum = backend.template allocate<double>(1);
  f(sum.data());
  return to_host<double>(backend, std::span<const double>(sum.data(), 1)).front();
}

/// f(lane, sum), the same.
template <class B, class F>
[[nodiscard]] double sum_of(const B& backend, F f) {
  return value_of(backend, [&](double* sum) { backend.parallel_for(1, [&](auto& lane, Index) { f(lane, sum); }); });
}

/// A batch in backend memory.
template <class B>
class Staged {
 public:
  Staged(const B& backend, const TokenBatch& batch) : staging_(backend) { staging_.upload(batch.view()); }
  [[nodiscard]] TokenView view() const { return staging_.view(); }

 private:
  typename B::Staging staging_;
};

/// N(0, deviation²)
[[nodiscard]] inline std::vector<double> random_values(std::uint64_t seed, Index n, double deviation = 1.0) {
  RandomEngine random({.seed = seed, .step = 0, .tensor = 99});
  std::vector<double> values(static_cast<std::size_t>(n));
  for (auto& v : values) {
    v = deviation * random.normal();
  }
  return values;
}

template <class B>
[[nodiscard]] Matrix<B> random_matrix(const B& backend, std::uint64_t seed, Index rows, Index cols,
                                      double deviation = 1.0) {
  using T = typename B::Scalar;
  const auto values = random_values(seed, rows * cols, deviation);
  Matrix<B> m(backend, rows, cols);
  backend.template copy<T>(std::vector<T>(values.begin(), values.end()), m.view().flat());
  return m;
}

struct BatchShape {
  std::vector<Index> lengths;  ///< of the histories, before they are cut to max_length
  Index max_length = 10;
  Index items = 20;     ///< ids 1 .. items
  double masked = 0.0;  ///< share of the items that are 0
  bool targets = true;
};

/// Random sequences; the same histories for both paddings.
[[nodiscard]] inline TokenBatch random_batch(std::uint64_t seed, const BatchShape& shape, Padding padding) {
  RandomEngine random({.seed = seed, .step = 0, .tensor = 98});
  const auto draw = [&] { return static_cast<ItemId>(1 + random.below(static_cast<std::uint32_t>(shape.items))); };
  TokenBatch batch;
  batch.start(shape.max_length, padding);
  for (const Index n : shape.lengths) {
    std::vector<ItemId> items;
    std::vector<ItemId> targets;
    std::vector<ItemId> negatives;
    for (Index i = 0; i < n; ++i) {
      items.push_back(draw());
      targets.push_back(draw());
      negatives.push_back(draw());
      items.back() = random.uniform() < shape.masked ? padding_item : items.back();
    }
    if (shape.targets) {
      batch.add(items, {with<Targets>(targets), with<Negatives>(negatives)});
    } else {
      batch.add(items);
    }
  }
  index_positions(batch);
  return batch;
}

}  // namespace elcrec::test
