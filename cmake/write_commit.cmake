# cmake -DSOURCE=FOLDER -DOUTPUT=FILE [-DCOMMIT=NAME] -P write_commit.cmake
# Writes a header that names the commit of which a build is: COMMIT, else what git says of SOURCE, else "unknown". The file is touched only when that
# has changed, so that a build of the same commit compiles nothing.
if(NOT COMMIT)
    execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE COMMIT ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT COMMIT MATCHES "^[0-9A-Za-z._-]+$")
    set(COMMIT unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n\n#define SLUICE_COMMIT \"${COMMIT}\"\n")
