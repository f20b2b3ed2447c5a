# elcrec::precompiled: elcrec::elcrec whose usual templates (ELCRec<Cpu>, its Recommender and Trainer) are compiled once, in
# a static library. It is compiled in the host's build, by the flags of the project and folder that asks for it: what is
# compiled with others is other code (core/target.hpp). So flags such as -march=native belong in CMAKE_CXX_FLAGS or
# add_compile_options before this, not on a single target; where a source was compiled otherwise, the linker misses its
# functions.
if(NOT TARGET elcrec_precompiled)
  add_library(elcrec_precompiled STATIC EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/precompiled/serve.cpp
                                                         ${CMAKE_CURRENT_LIST_DIR}/precompiled/train.cpp)
  add_library(elcrec::precompiled ALIAS elcrec_precompiled)
  target_link_libraries(elcrec_precompiled PUBLIC elcrec::elcrec)
  target_compile_definitions(elcrec_precompiled PUBLIC ELCREC_PRECOMPILED)
endif()
