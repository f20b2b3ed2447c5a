#pragma once

/// Where things are: known to one small source, so that the others compile to the same in every folder.
namespace elcrec::test {

extern const char* const source_folder;
extern const char* const program;             ///< elcrec, or empty where it is not built
extern const char* const experiment_program;  ///< elcrec_experiment, likewise
extern const char* const failing_allocation;  ///< a library to preload: see failing_allocation.cpp

}  // namespace elcrec::test
