// expect: the lane lacks operations of operation::Products
// A backend whose lane lacks an operation that all have is told which.
#include "elcrec/backend/reference/lane.hpp"
#include "elcrec/core/concepts.hpp"

struct Lane : elcrec::ReferenceLane<double> {
  void multiply_tn() = delete;
};
static_assert(elcrec::check_lane<Lane>());
