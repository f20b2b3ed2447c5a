# elcrec::cuda: what a .cu file that includes elcrec/backend/cuda.hpp needs. The host enables the language CUDA itself.
find_package(CUDAToolkit REQUIRED)
add_library(elcrec_cuda INTERFACE)
add_library(elcrec::cuda ALIAS elcrec_cuda)
target_link_libraries(elcrec_cuda INTERFACE elcrec::elcrec CUDA::cudart CUDA::cublas)
# CMake before 3.25.2 does not know how nvcc 13 is asked for C++20. Warning 1675 is about pragmas that are for GCC alone.
# Eigen's own CUDA support is for older compilers.
target_compile_options(
  elcrec_cuda INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-diag-suppress=1675>")
target_compile_definitions(elcrec_cuda INTERFACE EIGEN_NO_CUDA)
