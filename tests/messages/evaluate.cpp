// expect: lacks `void evaluate
// An objective that would change the step that it is given to read.
#include "elcrec/backend/reference.hpp"
#include "elcrec/encoder/transformer.hpp"
#include "elcrec/loss/next_item.hpp"
#include "elcrec/model/sequential_model.hpp"

struct NotConst : elcrec::NextItemBce {
  void evaluate(auto& step) { elcrec::NextItemBce::evaluate(step); }
};

using B = elcrec::Reference;
using Model = elcrec::SequentialModel<elcrec::TransformerEncoder<8, B>, NotConst>;
static_assert(sizeof(Model) > 0);
