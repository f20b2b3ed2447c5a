#pragma once

#include "elcrec/core/token_view.hpp"

namespace elcrec::inline ELCREC_TARGET {

/// Brings batches into the memory of a host backend, where they are already.
class HostStaging {
 public:
  template <class Backend>
  explicit HostStaging(const Backend&) {}

  void upload(const TokenView& host) { view_ = host; }
  [[nodiscard]] TokenView view() const { return view_; }
  static void finished() {}

 private:
  TokenView view_;
};

}  // namespace elcrec::inline ELCREC_TARGET
