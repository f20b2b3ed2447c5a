// expect: the model's encoder needs `name`, `Options`
// Saving a model whose encoder does not say what it was made of.
#include "elcrec/backend/reference.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/model/model_file.hpp"
#include "elcrec/model/sequential_model.hpp"

using elcrec::Index;

struct Silent {
  using Backend = elcrec::Reference;
  struct Cache {};
  Index hidden() const { return 1; }
  Index max_length() const { return 1; }
  void forward(auto&&...) const {}
  void backward(auto&&...) const {}
  static void visit_parameters(auto&, auto&&) {}
};

using Model = elcrec::SequentialModel<Silent, elcrec::NextItemBce>;
void save(const Model& model, const elcrec::ItemMap& items) { elcrec::save_model("model.safetensors", model, items); }
