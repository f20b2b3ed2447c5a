#pragma once

// The same as in precompiled/serve.hpp, of training and evaluation.
#include "elcrec/eval/evaluate.hpp"
#include "elcrec/model/training_pass.hpp"
#include "elcrec/optim/adam.hpp"
#include "elcrec/precompiled/serve.hpp"
#include "elcrec/train/trainer.hpp"

#if defined(ELCREC_PRECOMPILED)

namespace elcrec::inline ELCREC_TARGET {

ELCREC_COMPILED_ELSEWHERE template class TrainingPass<ELCRec<Cpu>>;
ELCREC_COMPILED_ELSEWHERE template class AdamState<Cpu>;
ELCREC_COMPILED_ELSEWHERE template class Trainer<ELCRec<Cpu>, Adam>;
ELCREC_COMPILED_ELSEWHERE template RankingMetrics evaluate<ELCRec<Cpu>>(const ELCRec<Cpu>&, const LeaveOneOut&, Split,
                                                                        const EvaluationOptions&);

}  // namespace elcrec::inline ELCREC_TARGET

#endif
