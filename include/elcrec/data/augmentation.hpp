#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "elcrec/core/error.hpp"
#include "elcrec/core/matrix_view.hpp"
#include "elcrec/core/options.hpp"
#include "elcrec/core/random.hpp"
#include "elcrec/core/types.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Makes a random view of a history for contrastive learning. `view` is replaced (its capacity is reused) and does not
/// overlap the history. An empty history has an empty view.
template <class T>
concept Augmentation = requires(const T& augment, std::span<const ItemId> history, RandomEngine& random,
                                std::vector<ItemId>& view) {
  { augment(history, random, view) } -> std::same_as<void>;
};

namespace detail {

/// floor(ratio * n). Throws ArgumentError for a ratio outside [0, 1].
[[nodiscard]] inline Index share_of(Index n, double ratio, const char* augmentation) {
  require(0.0 <= ratio && ratio <= 1.0, augmentation, " ratio ", ratio, "; expected 0 to 1");
  return static_cast<Index>(ratio * static_cast<double>(n));
}

/// One of the parts of `length` elements, each as likely.
template <class T>
[[nodiscard]] std::span<T> random_part(std::span<T> values, Index length, RandomEngine& random) {
  const Index begin = random.below(static_cast<std::uint32_t>(ssize(values) - length + 1));
  return slice(values, begin, begin + length);
}

}  // namespace detail

/// A contiguous floor(ratio * n) of the n items, at least one. (CL4SRec, Xie et al., ICDE 2022, section III-C.)
struct Crop {
  static constexpr std::string_view name = "crop";

  double ratio = 0.2;  ///< in [0, 1]; ArgumentError at the call otherwise

  static void visit_options(auto& self, auto&& visitor) { visitor("ratio", self.ratio); }
  void check() const { check_share("ratio", ratio); }

  void operator()(std::span<const ItemId> history, RandomEngine& random, std::vector<ItemId>& view) const {
    const Index length = (std::max)(Index{1}, detail::share_of(ssize(history), ratio, "crop"));
    view.clear();
    if (!history.empty()) {
      const auto part = detail::random_part(history, length, random);
      view.assign(part.begin(), part.end());
    }
  }
};

/// floor(ratio * n) of the n positions, drawn without replacement, hold the padding item instead. (CL4SRec)
struct Mask {
  static constexpr std::string_view name = "mask";

  double ratio = 0.7;  ///< in [0, 1]; ArgumentError at the call otherwise

  static void visit_options(auto& self, auto&& visitor) { visitor("ratio", self.ratio); }
  void check() const { check_share("ratio", ratio); }

  void operator()(std::span<const ItemId> history, RandomEngine& random, std::vector<ItemId>& view) const {
    Index chosen = detail::share_of(ssize(history), ratio, "mask");
    view.assign(history.begin(), history.end());
    // Selection sampling: of the `left` positions from here on, `chosen` are still to be masked.
    for (Index left = ssize(history); left > 0 && chosen > 0; --left) {
      if (static_cast<Index>(random.below(static_cast<std::uint32_t>(left))) < chosen) {
        view[history.size() - static_cast<std::size_t>(left)] = padding_item;
        --chosen;
      }
    }
  }
};

/// A contiguous floor(ratio * n) of the n items is shuffled. (CL4SRec)
struct Reorder {
  static constexpr std::string_view name = "reorder";

  double ratio = 0.2;  ///< in [0, 1]; ArgumentError at the call otherwise

  static void visit_options(auto& self, auto&& visitor) { visitor("ratio", self.ratio); }
  void check() const { check_share("ratio", ratio); }

  void operator()(std::span<const ItemId> history, RandomEngine& random, std::vector<ItemId>& view) const {
    const Index length = detail::share_of(ssize(history), ratio, "reorder");
    view.assign(history.begin(), history.end());
    random.shuffle(detail::random_part(std::span(view), length, random));
  }
};

/// One of the parts, each as likely, is drawn anew for every view. `RandomView{}` is crop, mask or reorder as
/// published.
template <Augmentation... Parts>
  requires(sizeof...(Parts) > 0)
class RandomView {
 public:
  static constexpr std::string_view name = "random";

  RandomView() = default;
  explicit RandomView(Parts... parts) : parts_(std::move(parts)...) {}

  static void visit_options(auto& self, auto&& visitor) requires(Described<Parts>&&...) {
    std::string names;
    visit_named(self.parts_,
                [&](const std::string& part, const auto&) { names.append(names.empty() ? "" : ", ").append(part); });
    const std::string_view one_of = names;
    visitor("one_of", one_of);
    visit_named(self.parts_, visitor);
  }

  void operator()(std::span<const ItemId> history, RandomEngine& random, std::vector<ItemId>& view) const {
    const std::uint32_t drawn = random.below(sizeof...(Parts));
    std::apply(
        [&](const Parts&... part) {
          std::uint32_t number = 0;
          ((number++ == drawn ? part(history, random, view) : void()), ...);
        },
        parts_);
  }

  template <class P>
  [[nodiscard]] const P& part() const {
    return std::get<P>(parts_);
  }

 private:
  std::tuple<Parts...> parts_;
};

RandomView()->RandomView<Crop, Mask, Reorder>;

}  // namespace elcrec::inline ELCREC_TARGET
