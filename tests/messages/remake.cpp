// expect: a part needs `remake\(backend\)`
// A clone on another type of backend, of an encoder that cannot go there.
#include "elcrec/backend/cpu.hpp"
#include "elcrec/backend/reference.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/model/sequential_model.hpp"

using elcrec::Cpu;
using elcrec::Index;

struct CpuEncoder {
  using Backend = Cpu;
  struct Cache {};
  Index hidden() const { return 1; }
  Index max_length() const { return 1; }
  void forward(auto&&...) const {}
  void backward(auto&&...) const {}
  static void visit_parameters(auto&, auto&&) {}
};

using Model = elcrec::SequentialModel<CpuEncoder, elcrec::NextItemBce>;
auto clone(const Model& model) { return elcrec::clone(model, elcrec::Reference()); }
