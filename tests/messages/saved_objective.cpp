// expect: an objective of the model needs `visit_options`
// Loading a model with an objective whose settings have no names.
#include "elcrec/backend/reference.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/model/model_file.hpp"
#include "elcrec/model/sequential_model.hpp"

struct Silent {
  using Views = elcrec::TypeList<elcrec::InputView>;
  static constexpr std::string_view name = "silent";
  double weight = 1;
  void evaluate(auto&) const {}
};

using B = elcrec::Reference;
using Model = elcrec::SequentialModel<elcrec::TransformerEncoder<8, B>, Silent>;
auto load() { return elcrec::load_model<Model>("model.safetensors"); }
