# Conveniences that must not touch a host project.
get_property(is_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT is_multi_config AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)

find_program(ELCREC_CCACHE ccache DOC "Compiler cache")
if(ELCREC_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # -march=native means another thing on another processor, so a cache folder that moves between machines is divided by
  # processor. The sloppiness is what ccache asks for with precompiled headers. Paths below the source folder count
  # relative to it, so that a clone in another folder finds what this one compiled.
  cmake_host_system_information(RESULT processor QUERY PROCESSOR_DESCRIPTION)
  string(MD5 processor "${processor}")
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_NAMESPACE=${processor} CCACHE_SLOPPINESS=pch_defines,time_macros
      CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${ELCREC_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
