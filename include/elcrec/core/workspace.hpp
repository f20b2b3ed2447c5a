#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "elcrec/core/checked.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Stack of uninitialised backend memory: allocations are pointer bumps and are given back all at once by the Frame
/// around them. Grows by whole chunks and keeps them, so that after the first pass nothing is allocated. One thread at
/// a time.
template <class ByteBuffer>
class Workspace {
 public:
  /// `allocate(bytes)` makes a chunk, aligned to at least `alignment`.
  template <class Allocate>
  explicit Workspace(Allocate allocate) : allocate_(std::move(allocate)) {}

  static constexpr std::size_t alignment = 64;

  /// n elements, not initialised.
  template <class T>
  [[nodiscard]] std::span<T> array(Index n) {
    static_assert(std::is_trivially_destructible_v<T>, "workspace memory is released without destructors");
    const std::size_t bytes = (checked_bytes<T>("workspace", n) + alignment - 1) / alignment * alignment;
    while (chunk_ < chunks_.size() && used_ + bytes > size_of(chunks_[chunk_])) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) {
      chunks_.push_back(allocate_((std::max)(bytes, std::clamp(capacity(), smallest_chunk, usual_chunk))));
      used_ = 0;
    }
    auto* data = reinterpret_cast<T*>(chunks_[chunk_].data() + used_);
    used_ += bytes;
    taken_ += bytes;
    peak_ = (std::max)(peak_, taken_);
    return {data, static_cast<std::size_t>(n)};
  }

  /// The same in host memory: for what a component remembers that is no input or output of an operation.
  template <class T>
  [[nodiscard]] std::span<T> host_array(Index n) {
    static_assert(ByteBuffer::in_host_memory, "workspaces of a device have host_array of their own");
    return array<T>(n);
  }

  /// (rows, cols) elements, not initialised.
  template <class T>
  [[nodiscard]] MatrixView<T> matrix(Index rows, Index cols) {
    return {array<T>(checked_product("workspace", rows, cols)).data(), rows, cols};
  }

  /// Bytes that the chunks hold.
  [[nodiscard]] std::size_t capacity() const {
    std::size_t sum = 0;
    for (const auto& chunk : chunks_) {
      sum += size_of(chunk);
    }
    return sum;
  }

  /// Bytes of what was taken and not given back.
  [[nodiscard]] std::size_t used() const { return taken_; }

  /// Gives back on destruction what was taken since construction.
  class Frame {
   public:
    explicit Frame(Workspace& workspace)
        : workspace_(workspace), chunk_(workspace.chunk_), used_(workspace.used_), taken_(workspace.taken_) {}
    ~Frame() {
      workspace_.chunk_ = chunk_;
      workspace_.used_ = used_;
      workspace_.taken_ = taken_;
    }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace& workspace_;
    std::size_t chunk_;
    std::size_t used_;
    std::size_t taken_;
  };

  [[nodiscard]] Frame frame() { return Frame(*this); }

  /// Gives everything back. In host memory the chunks become one that holds what was taken at most: where the sizes of
  /// matrices change from step to step, some would be too small for all that comes.
  void clear() {
    chunk_ = 0;
    used_ = 0;
    taken_ = 0;
    if constexpr (ByteBuffer::in_host_memory) {
      if (chunks_.size() > 1) {
        chunks_.clear();
        chunks_.push_back(allocate_(peak_));
      }
    }
  }

 private:
  // Chunks double up to the usual size: many small workspaces stay small.
  static constexpr std::size_t smallest_chunk = std::size_t{1} << 16;
  static constexpr std::size_t usual_chunk = std::size_t{1} << 21;

  static std::size_t size_of(const ByteBuffer& chunk) { return static_cast<std::size_t>(chunk.size()); }

  std::function<ByteBuffer(std::size_t)> allocate_;
  std::vector<ByteBuffer> chunks_;
  std::size_t chunk_ = 0;
  std::size_t used_ = 0;   // of that chunk
  std::size_t taken_ = 0;  // of all
  std::size_t peak_ = 0;   // that this ever was
};

}  // namespace elcrec::inline ELCREC_TARGET
