# elcrec_find_package(<package> <Debian package> [find_package arguments...]): required, and says how to get it.
macro(elcrec_find_package package debian)
  find_package(${package} ${ARGN} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "elcrec needs ${package}, which was not found. On Debian or Ubuntu: apt-get install ${debian}. "
                        "Elsewhere: install it and add its prefix to CMAKE_PREFIX_PATH.")
  endif()
endmacro()
