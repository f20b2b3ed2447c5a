#include "paths.hpp"

namespace elcrec::test {

const char* const source_folder = ELCREC_SOURCE_FOLDER;
const char* const program = ELCREC_PROGRAM;
const char* const experiment_program = ELCREC_EXPERIMENT;
const char* const failing_allocation = ELCREC_FAILING_ALLOCATION;

}  // namespace elcrec::test
