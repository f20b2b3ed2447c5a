#pragma once

#include <cstddef>
#include <cstdint>

#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Row of an item in the item table. 0 is padding; real items start at 1.
using ItemId = std::int32_t;

/// Sizes, offsets and extents. Signed, so that differences are safe.
using Index = std::ptrdiff_t;

/// An extent that is known only at run time, as in Eigen.
inline constexpr Index Dynamic = -1;

inline constexpr ItemId padding_item = 0;

}  // namespace elcrec::inline ELCREC_TARGET
