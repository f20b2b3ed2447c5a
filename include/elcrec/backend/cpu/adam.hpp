#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "elcrec/backend/cpu/lane.hpp"
#include "elcrec/backend/cpu/simd.hpp"
#include "elcrec/backend/cpu/simd_math.hpp"
#include "elcrec/backend/reference/adam.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/operations.hpp"

namespace elcrec::inline ELCREC_TARGET {

namespace cpu {

template <class T>
void adam_update(const AdamStep& step, const AdamSlot<T>& slot) {
  const AdamFactors<T> f(step);
  const T keep = slot.decays ? f.keep : T(1);
  simd::each<T>(ssize(slot.p),
                [&, p = slot.p.data(), from = slot.g.data(), mean = slot.m.data(), square = slot.v.data()](auto at) {
                  const auto g = at(from);
                  const auto m = f.b1 * at(mean) + (T(1) - f.b1) * g;
                  const auto v = f.b2 * at(square) + (T(1) - f.b2) * g * g;
                  at.put(mean, m);
                  at.put(square, v);
                  at.put(p, keep * at(p) - f.rate * m / (simd::sqrt(v) * f.root + f.eps));
                });
}

}  // namespace cpu

template <class T>
void adam(CpuLane<T>&, const AdamStep& step, std::span<const AdamSlot<std::type_identity_t<T>>> slots, Index first,
          Index last) {
  for_each_part(slots, first, last, [&](const AdamSlot<T>& part) { cpu::adam_update(step, part); });
}

template <class T>
void adam_rows(CpuLane<T>&, const AdamStep& step, std::span<const std::int32_t> ids, Output<T> p, Input<T> g,
               Output<T> m, Output<T> v) {
  reference::for_each_row_of(ids, [&](auto row) { cpu::adam_update<T>(step, {row(p), row(g), row(m), row(v), true}); });
}

}  // namespace elcrec::inline ELCREC_TARGET
