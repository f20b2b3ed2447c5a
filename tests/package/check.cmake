# Builds and runs the host project in the folder MODE as a stranger would: no flags of ours in the environment.
function(run)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env --unset=CXXFLAGS --unset=LDFLAGS --unset=DESTDIR ${ARGV}
                  COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

set(host ${CMAKE_CURRENT_LIST_DIR}/${MODE})
set(build ${WORK_DIR}/build)
set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})

if(MODE MATCHES "find_package|precompiled")
  run(${CMAKE_COMMAND} --install ${BINARY_DIR} --prefix ${prefix})
endif()
run(${CMAKE_COMMAND} -S ${host} -B ${build} -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_EXPORT_COMPILE_COMMANDS=ON
    -D CMAKE_PREFIX_PATH=${prefix} -D ELCREC_EXPECTED_PREFIX=${prefix} -D ELCREC_SOURCE=${SOURCE_DIR})
run(${CMAKE_COMMAND} --build ${build})
if(MODE STREQUAL install_library)
  # elcrec is not part of the host's own installation: only what asks for it gets it.
  run(${CMAKE_COMMAND} --install ${build} --prefix ${prefix})
  if(EXISTS ${prefix}/include/elcrec)
    message(FATAL_ERROR "installing the host installs elcrec, expected it not to unless ELCREC_INSTALL is ON")
  endif()
  run(${CMAKE_COMMAND} --install ${build} --prefix ${prefix} --component elcrec)
  run(${CMAKE_COMMAND} -S ${host}/user -B ${build}/user -D CMAKE_CXX_COMPILER=${COMPILER} -D CMAKE_PREFIX_PATH=${prefix})
  run(${CMAKE_COMMAND} --build ${build}/user)
  run(${build}/user/user)
else()
  run(${build}/host)
endif()

if(MODE STREQUAL precompiled)
  # The usual templates are the library's. The host's own train() shows that the list is what it should be.
  file(READ ${build}/functions.txt functions)
  string(REGEX MATCHALL "(Recommender|Trainer|TrainingPass)<[^\n]*::(recommend|save|start)\\(" own "${functions}")
  if(own OR NOT functions MATCHES "train\\(char const\\*\\)")
    message(FATAL_ERROR "the host compiled what elcrec::precompiled has: ${own}; all of its functions:\n${functions}")
  endif()
  return()
endif()

# The host set no flag, so its compiler may only see the standard and include folders.
file(READ ${build}/compile_commands.json commands)
string(JSON command GET ${commands} 0 command)
string(REGEX MATCHALL " -[^ ]+" flags "${command}")
list(FILTER flags EXCLUDE REGEX "^ -(I.*|isystem|std=.*|o|c)$")
if(flags)
  message(FATAL_ERROR "elcrec passes flags to its host:${flags}\nin: ${command}")
endif()
