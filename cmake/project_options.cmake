# Flags of the project's own programs. Linked privately, never exported: see tests/package.
add_library(elcrec_project_options INTERFACE)
target_compile_options(elcrec_project_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion)
# Nothing here reads errno or floating-point exception flags; without them sqrt and selections vectorise. NaN and infinity
# keep their meaning, which the checks for a diverging loss need.
target_compile_options(elcrec_project_options INTERFACE -fno-math-errno -fno-trapping-math)
if(ELCREC_WERROR)
  target_compile_options(elcrec_project_options INTERFACE -Werror)
endif()
if(ELCREC_NATIVE)  # -O3 comes with CMake's Release
  target_compile_options(elcrec_project_options INTERFACE -march=native)
endif()
