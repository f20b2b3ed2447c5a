// Explicit instantiations: see elcrec/precompiled/serve.hpp.
#define ELCREC_COMPILED_ELSEWHERE
#include <elcrec/io/json_by_nlohmann.hpp>
#include <elcrec/precompiled/serve.hpp>
