// expect: SequenceEncoder
// An encoder without a backward pass.
#include "elcrec/backend/reference.hpp"
#include "elcrec/encoder/sequence_encoder.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/model/sequential_model.hpp"

struct ForwardOnly {
  using Backend = elcrec::Reference;
  struct Cache {};
  elcrec::Index hidden() const { return 1; }
  elcrec::Index max_length() const { return 1; }
  void forward(auto&&...) const {}
  static void visit_parameters(auto&, auto&&) {}
};

using Model = elcrec::SequentialModel<ForwardOnly, elcrec::NextItemBce>;
Model* model = nullptr;
