#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "elcrec/backend/matrix.hpp"
#include "elcrec/core/concepts.hpp"
#include "elcrec/core/memory.hpp"
#include "elcrec/core/operations.hpp"
#include "elcrec/nn/parameter.hpp"

namespace elcrec::inline ELCREC_TARGET {

template <Backend B>
class TableGradient;

/// A table of embeddings (R, D), one row for each id of a vocabulary: items, users, attributes. A step looks at a few
/// rows, so its gradient is one table with contributions by row, not a copy for every slice.
template <Backend B>
class EmbeddingTable {
 public:
  using Backend = B;
  using T = typename B::Scalar;
  using Gradient = TableGradient<B>;

  static constexpr std::int32_t no_row = -1;

  /// All rows 0. `name` is the parameter's, `what` the table's in messages; look-ups of row `untrained` get no
  /// gradient. Throws ArgumentError and MemoryError.
  EmbeddingTable(const B& backend, std::string name, Index rows, Index cols, std::int32_t untrained = no_row,
                 std::string_view what = "the table")
      : name_(std::move(name)),
        untrained_(untrained),
        values_(in_memory_for(message(what, ", ", rows, " x ", cols), "a smaller `hidden`",
                              [&] { return Matrix<B>(backend, rows, cols); })) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::int32_t untrained() const { return untrained_; }
  [[nodiscard]] Index rows() const { return values_.rows(); }
  [[nodiscard]] Index cols() const { return values_.cols(); }
  [[nodiscard]] MatrixView<T> view() { return values_.view(); }              // (R, D)
  [[nodiscard]] MatrixView<const T> view() const { return values_.view(); }  // (R, D)

  template <class To>
  [[nodiscard]] EmbeddingTable<To> remake(const To& backend) const {
    return {backend, name_, rows(), cols(), untrained_};
  }

  static void visit_parameters(auto& self, auto&& visitor) { visitor(self.name_, self.view(), 2); }

 private:
  std::string name_;
  std::int32_t untrained_;
  Matrix<B> values_;  // (R, D)
};

/// The gradient of an EmbeddingTable: rows that are added up once a step, and the whole table where something touches
/// every row of it.
template <Backend B>
class TableGradient {
 public:
  using T = typename B::Scalar;

  TableGradient(const B& backend, const EmbeddingTable<B>& table)
      : TableGradient(backend, table.name(), table.rows(), table.cols(), table.untrained()) {}
  TableGradient(const B& backend, std::string name, Index rows, Index cols, std::int32_t untrained)
      : name_(std::move(name)),
        values_(backend, rows, cols),
        scatter_(backend, rows, untrained),
        slices_(static_cast<std::size_t>(backend.slices())) {}

  TableGradient(TableGradient&&) noexcept = default;
  TableGradient& operator=(TableGradient&&) = delete;

  /// Adds rows at the next flush or sum, until when they must live. Not for several threads at once.
  void add(const RowContribution<T>& rows) { rows_.push_back(rows); }
  /// Where slice s adds rows: for an encoder whose table this is, from one thread for each slice.
  class Slice {
   public:
    /// As above. The rows live in memory that the encoder was given for them (Pass::memory, dy).
    void add(const RowContribution<T>& rows) { rows_.push_back(rows); }

   private:
    friend TableGradient;
    std::vector<RowContribution<T>> rows_;
  };
  [[nodiscard]] Slice& of(Index s) { return slices_[static_cast<std::size_t>(s)]; }

  /// The gradient of all rows, for what touches every one.
  [[nodiscard]] MatrixView<T> all() {
    all_touched_ = true;
    return values_.view();
  }

  void start(const B& backend) {
    if (std::exchange(all_touched_, false)) {
      backend.parallel_blocks(values_.rows(), 1024, [&](typename B::Lane& lane, Index first, Index last) {
        lane.fill(values_.view().slice_rows(first, last), T(0));
      });
      scatter_.clear();
    } else {
      scatter_.clear_rows(backend, values_.view());
    }
  }
  [[nodiscard]] std::span<const MatrixView<T>> cleared_by(Index) const { return {}; }
  void flush(const B& backend) {
    for (Slice& slice : slices_) {
      rows_.insert(rows_.end(), slice.rows_.begin(), slice.rows_.end());
      slice.rows_.clear();
    }
    if (!rows_.empty()) {
      scatter_(backend, rows_, values_.view());
      rows_.clear();
    }
  }
  void sum(const B& backend) { flush(backend); }
  void append_to(std::vector<Parameter<T>>& list) {
    list.push_back({name_, values_.view(), 2, {}});
    if (!all_touched_) {
      list.back().rows = scatter_.touched();
    }
  }

 private:
  std::string name_;
  Matrix<B> values_;  // (R, D)
  typename B::RowScatter scatter_;
  std::vector<RowContribution<T>> rows_;
  std::vector<Slice> slices_;
  bool all_touched_ = false;
};

}  // namespace elcrec::inline ELCREC_TARGET
