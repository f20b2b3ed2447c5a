# Writes what ptxas says about the kernels of SOURCE to REPORT.
foreach(architecture IN LISTS ARCHITECTURES)
  list(APPEND targets -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()
execute_process(
  COMMAND ${NVCC} -std=c++20 --expt-relaxed-constexpr -ccbin ${HOST} -O3 ${targets} -Xptxas -v -I ${INCLUDE} -fatbin
          ${SOURCE} -o ${REPORT}.fatbin
  OUTPUT_VARIABLE report ERROR_VARIABLE report RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${report}")
endif()
file(REMOVE ${REPORT}.fatbin)
file(WRITE ${REPORT} "${report}")
