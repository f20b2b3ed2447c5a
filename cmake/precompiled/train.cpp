// Explicit instantiations: see elcrec/precompiled/train.hpp. Those of serving are serve.cpp's.
#include <elcrec/precompiled/serve.hpp>
#undef ELCREC_COMPILED_ELSEWHERE
#define ELCREC_COMPILED_ELSEWHERE
#include <elcrec/precompiled/train.hpp>
