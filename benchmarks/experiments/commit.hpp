#pragma once

namespace experiments {

/// The commit that the program was built from, with "-dirty" if the tree had changes. In a source file of its own,
/// which every build makes anew.
[[nodiscard]] const char* commit();

}  // namespace experiments
