// expect: no Objective: as one it lacks `Views`
// An objective that does not say which views it reads.
#include "elcrec/backend/reference.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/model/sequential_model.hpp"

struct NoViews {
  static constexpr std::string_view name = "no_views";
  double weight = 1;
  void evaluate(auto&) const {}
};

using B = elcrec::Reference;
using Model = elcrec::SequentialModel<elcrec::TransformerEncoder<8, B>, NoViews>;
Model* model = nullptr;
static_assert(sizeof(Model) > 0);
