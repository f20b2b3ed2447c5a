#pragma once

// With elcrec::precompiled, what loading and recommending instantiate is compiled once, in that library: a source that
// includes this leaves it to the linker. Its target was compiled with the project's flags: a source of other ones finds
// nothing there (ELCREC_TARGET), and the linker says so.
#include <filesystem>

#include "elcrec/backend/cpu.hpp"
#include "elcrec/model/elcrec.hpp"
#include "elcrec/model/elcrec_checkpoint.hpp"
#include "elcrec/serve/recommender.hpp"

#if defined(ELCREC_PRECOMPILED)

// Empty in the one source that compiles them.
#if !defined(ELCREC_COMPILED_ELSEWHERE)
#define ELCREC_COMPILED_ELSEWHERE extern
#endif

namespace elcrec::inline ELCREC_TARGET {

ELCREC_COMPILED_ELSEWHERE template class ReferenceLane<float>;
ELCREC_COMPILED_ELSEWHERE template class CpuLane<float>;
ELCREC_COMPILED_ELSEWHERE template class detail::PooledBackend<CpuLane<float>>;
ELCREC_COMPILED_ELSEWHERE template class AttentionBlock<Cpu>;
ELCREC_COMPILED_ELSEWHERE template class FilterBlock<Cpu>;
ELCREC_COMPILED_ELSEWHERE template class FeedForward<Cpu>;
ELCREC_COMPILED_ELSEWHERE template class TransformerEncoder<Dynamic, Cpu>;
ELCREC_COMPILED_ELSEWHERE template class ELCRec<Cpu>;
ELCREC_COMPILED_ELSEWHERE template class Recommender<ELCRec<Cpu>>;
ELCREC_COMPILED_ELSEWHERE template LoadedModel<ELCRec<Cpu>> load_elcrec<Cpu>(const SafetensorsFile&, const Cpu&, Index);
ELCREC_COMPILED_ELSEWHERE template LoadedModel<ELCRec<Cpu>> load_elcrec<Cpu>(const std::filesystem::path&, const Cpu&,
                                                                             Index);
ELCREC_COMPILED_ELSEWHERE template void save_model<ELCRec<Cpu>>(const std::filesystem::path&, const ELCRec<Cpu>&,
                                                                const ItemMap&);

}  // namespace elcrec::inline ELCREC_TARGET

#endif
