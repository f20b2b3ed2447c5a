#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

#include "elcrec/core/error.hpp"
#include "elcrec/core/target.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Holds the value (a Snapshot, say) that readers get, and publishes the next while they finish with theirs.
///
/// To take a handle is one atomic addition, to give it back another: readers wait for nobody, neither for a publisher
/// nor for each other, and see a publication from their next handle on. A publisher waits for other publishers only. A
/// value that was replaced is let go of with its last handle, on the thread that gives that back, which pays for its
/// destruction; where none is out, on the publisher's.
///
/// How: an atomic word holds the number of the place where the current value is and counts the handles taken there, so
/// that one addition does both. A place counts the handles given back; when its value is replaced, those taken are set
/// against them, and whoever brings the balance to 0 is the last. (A std::atomic<std::shared_ptr> is a lock in
/// libstdc++ and libc++: a reader that loses its processor while it holds it stops all others.)
template <class T>
class Slot {
  struct State;

  struct Place {
    std::shared_ptr<const T> value;
    std::shared_ptr<State> state;  // while there is a value: handles may outlive the slot
    // Handles taken less those given back, once the value was replaced; until then the latter alone, negative.
    alignas(64) std::atomic<std::int64_t> balance{0};
    std::atomic<bool> in_use{false};

    void add(std::int64_t handles) noexcept {
      if (balance.fetch_add(handles, std::memory_order_acq_rel) + handles == 0) {
        const auto kept = std::move(state);  // destroyed last: this place is part of it
        const auto last = std::move(value);
        in_use.store(false, std::memory_order_release);
      }
    }
  };

  static constexpr std::uint64_t places = 64;  // leaves 58 bits for the count of one value's handles

  struct State {
    alignas(64) std::atomic<std::uint64_t> current{0};  // handles taken x places + place
    alignas(64) std::mutex publishing;
    std::array<Place, places> all;
  };

 public:
  /// Values that may be alive at once, the current one and replaced ones that readers still hold.
  static constexpr std::size_t most_values = places;

  /// Keeps one value alive and in place until it is destroyed. Of one thread at a time; may outlive the slot.
  class Handle {
   public:
    Handle(Handle&& other) noexcept : place_(std::exchange(other.place_, nullptr)), value_(other.value_) {}
    Handle& operator=(Handle other) noexcept {
      std::swap(place_, other.place_);
      std::swap(value_, other.value_);
      return *this;
    }
    ~Handle() {
      if (place_ != nullptr) {
        place_->add(-1);
      }
    }

    [[nodiscard]] const T& operator*() const { return *value_; }
    [[nodiscard]] const T* operator->() const { return value_; }

   private:
    friend Slot;
    explicit Handle(Place& place) : place_(&place), value_(place.value.get()) {}
    Place* place_;
    const T* value_;
  };

  /// Throws ArgumentError for no value.
  explicit Slot(std::shared_ptr<const T> first) : state_(std::make_shared<State>()) {
    state_->current.store(placed(std::move(first)), std::memory_order_release);
  }
  /// No other call may be under way. Handles stay valid.
  ~Slot() { replaced(state_->current.load(std::memory_order_acquire)); }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  /// The current value. Safe from any number of threads; wait-free where the processor has an atomic addition.
  [[nodiscard]] Handle take() const noexcept {
    return Handle(place_of(state_->current.fetch_add(places, std::memory_order_acquire)));
  }

  /// Makes `next` the current value. Safe from any number of threads. Throws ArgumentError for no value, and Error,
  /// nothing changed, when readers hold so many old values that there is no place.
  void publish(std::shared_ptr<const T> next) {
    std::uint64_t before = 0;
    {
      const std::lock_guard lock(state_->publishing);
      before = state_->current.exchange(placed(std::move(next)), std::memory_order_acq_rel);
    }
    replaced(before);
  }

 private:
  /// Puts a value into a free place, whose number it returns.
  std::uint64_t placed(std::shared_ptr<const T> value) {
    require(value != nullptr, "slot: found no value, expected one to publish");
    const auto place = std::find_if(state_->all.begin(), state_->all.end(),
                                    [](const Place& p) { return !p.in_use.load(std::memory_order_acquire); });
    require<Error>(place != state_->all.end(), "slot: found ", most_values,
                   " values that readers hold, expected fewer: does a reader keep its handles?");
    place->value = std::move(value);
    place->state = state_;
    place->in_use.store(true, std::memory_order_relaxed);
    return static_cast<std::uint64_t>(place - state_->all.begin());
  }

  Place& place_of(std::uint64_t word) const noexcept {
    return *(state_->all.begin() + static_cast<std::ptrdiff_t>(word % places));
  }
  void replaced(std::uint64_t word) noexcept { place_of(word).add(static_cast<std::int64_t>(word / places)); }

  std::shared_ptr<State> state_;
};

template <class T>
Slot(std::shared_ptr<T>) -> Slot<std::remove_const_t<T>>;

}  // namespace elcrec::inline ELCREC_TARGET
