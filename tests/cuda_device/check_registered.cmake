# Fails if PROGRAM launches a kernel that nvcc did not register: the host compiler then calls cudaLaunchKernel for it, where
# the code that nvcc makes calls __cudaLaunchKernel.
execute_process(COMMAND ${NM} -D --undefined-only ${PROGRAM} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
if(NOT symbols MATCHES " __cudaLaunchKernel")
  message(FATAL_ERROR "${PROGRAM}: found no launch of a kernel, expected some")
endif()
if(symbols MATCHES " cudaLaunchKernel")
  message(FATAL_ERROR "${PROGRAM}: found a kernel without device code; expected every kernel that the host compiler "
                      "instantiates to be instantiated by nvcc as well")
endif()
