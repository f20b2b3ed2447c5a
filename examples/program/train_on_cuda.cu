#include <elcrec/backend/cuda.hpp>

#include "program/train.hpp"

void program::Train::train_on_cuda(const Train& train, const Plan& plan, const elcrec::LeaveOneOut& split) {
  train.train_on(elcrec::Cuda(), plan, split);
}
