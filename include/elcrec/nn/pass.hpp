#pragma once

#include "elcrec/core/dropout_mask.hpp"
#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/random.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Where the dropout of one pass over one view gets its bits: none in evaluation, and the same ones in a forward pass
/// and the backward pass that belongs to it.
struct DropoutBits {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  std::uint32_t view = 0;
  bool training = false;

  static constexpr std::uint32_t sites = 0x10000;
  static constexpr std::uint32_t views = 0xFFF0;

  /// Mask of one place in an encoder; places are numbered by the encoder, below `sites`. No two places of the views
  /// below `views` share a stream: the tensor's number is that of RandomTensor::dropout + 2^24 · (site / 256)
  /// + 256 · view + site mod 256.
  [[nodiscard]] DropoutMask mask(std::uint32_t site, double rate) const {
    if (!training) {
      return {};
    }
    require(site < sites && view < views, "dropout: found place ", site, " of view ", view, ", expected below ", sites,
            " and ", views);
    const auto first = static_cast<std::uint32_t>(RandomTensor::dropout);
    return {RandomStream{seed, step, first + (site / 0x100 << 24) + 0x100 * view + site % 0x100}, rate};
  }
};

/// What a component needs besides its arguments: a lane to run on, memory that lives until the backward pass is over
/// (a lane's own workspace does not), and dropout bits.
template <class B>
struct Pass {
  typename B::Lane& lane;
  typename B::Workspace& memory;
  DropoutBits dropout;

  using Scalar = typename B::Scalar;
  /// (rows, cols), valid until `memory` is released.
  [[nodiscard]] MatrixView<Scalar> keep(Index rows, Index cols) const {
    return memory.template matrix<Scalar>(rows, cols);
  }
  /// (rows, cols), valid until the frame of the lane's workspace ends.
  [[nodiscard]] MatrixView<Scalar> scratch(Index rows, Index cols) const {
    return lane.workspace().template matrix<Scalar>(rows, cols);
  }
};

}  // namespace elcrec::inline ELCREC_TARGET
