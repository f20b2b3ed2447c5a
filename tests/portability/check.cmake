# cmake -D COMPILER=... -D FLAGS=... -D SOURCE=... -D INCLUDES=a:b -D SYSTEM_INCLUDES=c:d -D WORK_DIR=... -D EMULATOR=...
# -P check.cmake
# SOURCE, one or a:b, compiles without a word and, unless FLAGS say -fsyntax-only, runs, by EMULATOR if there is one; skipped where
# COMPILER and FLAGS make nothing, or nothing that runs here.
separate_arguments(FLAGS)
string(REPLACE ":" ";" SOURCE "${SOURCE}")
string(REPLACE ":" ";" folders "${INCLUDES}")
list(TRANSFORM folders PREPEND "-I")
string(REPLACE ":" ";" system_folders "${SYSTEM_INCLUDES}")
foreach(folder IN LISTS system_folders)
  list(APPEND folders -isystem ${folder})
endforeach()
file(MAKE_DIRECTORY ${WORK_DIR})
set(compile ${COMPILER} -std=c++20 ${FLAGS} ${folders} -pthread -o ${WORK_DIR}/host)

file(WRITE ${WORK_DIR}/probe.cpp "#include <iostream>\n#include <thread>\nint main() { std::thread([] { std::cout << 1; }).join(); }\n")
execute_process(COMMAND ${compile} ${WORK_DIR}/probe.cpp RESULT_VARIABLE code OUTPUT_QUIET ERROR_QUIET)
if(NOT code EQUAL 0 AND NOT "${FLAGS}" MATCHES "-fsyntax-only")
  message(STATUS "skipped: no toolchain for '${COMPILER} ${FLAGS}' here")
  return()
endif()

if(NOT "${FLAGS}" MATCHES "-fsyntax-only")
  execute_process(COMMAND ${EMULATOR} ${WORK_DIR}/host RESULT_VARIABLE code OUTPUT_QUIET ERROR_QUIET)
  if(NOT code EQUAL 0)
    message(STATUS "skipped: what '${COMPILER} ${FLAGS}' makes does not run here (emulator: '${EMULATOR}')")
    return()
  endif()
endif()

execute_process(COMMAND ${compile} ${SOURCE} RESULT_VARIABLE code ERROR_VARIABLE said)
if(NOT code EQUAL 0 OR said)
  message(FATAL_ERROR "${COMPILER} ${FLAGS} on ${SOURCE}: expected success in silence, found:\n${said}")
endif()
if(NOT "${FLAGS}" MATCHES "-fsyntax-only")
  execute_process(COMMAND ${EMULATOR} ${WORK_DIR}/host ${WORK_DIR}/host.safetensors COMMAND_ERROR_IS_FATAL ANY)
endif()
