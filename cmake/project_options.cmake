# Flags of the project's own programs. Linked privately, never exported: see tests/package.
add_library(elcrec_project_options INTERFACE)
target_compile_features(elcrec_project_options INTERFACE cxx_std_20)  # also for what includes no header of elcrec

# Adds options of the C++ compiler, which nvcc passes on to its host compiler.
function(elcrec_add_options)
  list(JOIN ARGN "," joined)
  target_compile_options(elcrec_project_options INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>"
                                                          "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${joined}>")
endfunction()

elcrec_add_options(-Wall -Wextra -Wshadow -Wconversion)
target_compile_options(elcrec_project_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wpedantic>)  # not for nvcc's output
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 warns of its own AVX-512 intrinsics, wherever Eigen uses them.
  elcrec_add_options(-Wno-maybe-uninitialized -Wno-uninitialized)
endif()
# Nothing here reads errno or floating-point exception flags; without them sqrt and selections vectorise. NaN and infinity
# keep their meaning, which the checks for a diverging loss need.
elcrec_add_options(-fno-math-errno -fno-trapping-math)
if(ELCREC_WERROR)
  elcrec_add_options(-Werror)
endif()
if(ELCREC_NATIVE)  # -O3 comes with CMake's Release
  elcrec_add_options(-march=native)
endif()
