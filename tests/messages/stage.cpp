// expect: a stage has before_first, before_epoch, after_step or after_last for a StageContext of this model
// A stage that is called at no time of training.
#include "elcrec/backend/reference.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/train/trainer.hpp"

struct Late {
  void after_everything(auto&) const {}
};

using Model = elcrec::SasRec<elcrec::Reference>;
void train(Model& model) { elcrec::Trainer(model, elcrec::Adam{}, {}, Late{}); }
