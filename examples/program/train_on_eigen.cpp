#include <elcrec/backend/eigen_cpu.hpp>

#include "program/demo.hpp"
#include "program/train.hpp"

void program::Train::train_on_eigen(const Plan& plan, const elcrec::LeaveOneOut& split) const {
  train_on(common_.backend<elcrec::EigenCpu>(), plan, split);
}

void program::Demo::show_on_eigen(const Setting& setting) const { show_on<elcrec::EigenCpu>(setting); }
