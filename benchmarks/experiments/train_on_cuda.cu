#include <elcrec/backend/cuda.hpp>

#include "runner.hpp"

bool experiments::Runner::train_on_cuda(const Run& run, const elcrec::LeaveOneOut& split) {
  return train_on(elcrec::Cuda(), run, split);
}
