// expect: the lane lacks operations of operation::Gelu
// A backend whose lane lacks an operation is told which.
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/concepts.hpp"

struct Lane : elcrec::ReferenceLane<double> {
  void bias_gelu_backward() = delete;
};
static_assert(elcrec::check_lane<Lane>());
