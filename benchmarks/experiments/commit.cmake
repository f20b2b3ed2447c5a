# Writes OUTPUT, which defines experiments::commit() for the repository SOURCE; leaves it alone if nothing changed.
execute_process(
  COMMAND git describe --always --dirty --abbrev=10 --exclude=*
  WORKING_DIRECTORY ${SOURCE}
  OUTPUT_VARIABLE commit
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
  RESULT_VARIABLE failed)
if(failed)
  set(commit "unknown")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "commit.hpp"
const char* experiments::commit() { return "@commit@"; }
]] @ONLY)
