// expect: found a model without intents, expected one with LearnableClusters
// A stage of k-means for a model without intents.
#include "elcrec/backend/reference.hpp"
#include "elcrec/cluster/k_means_stages.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/train/trainer.hpp"

using Model = elcrec::SasRec<elcrec::Reference>;
void train(Model& model) { elcrec::Trainer(model, elcrec::Adam{}, {}, elcrec::KMeansStart()); }
