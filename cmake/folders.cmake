# sluice_add_tests(NAME <executable> LABEL <unit|property|golden|integration|fuzz|model> [NO_THREADS] SOURCES a_test.cpp ... LIBRARIES ...)
# One executable; every TEST_CASE becomes a CTest test with the label. A test that cannot run here prints
# "SKIPPED: why" and returns; CTest then counts it as skipped. All executables of a label: target tests_<label>.
# The label model: with a real model that is fetched (tests/support/real_model.h); skipped where it cannot be had.
# A fuzz or property executable as a whole is also one test with the label nightly, with many more seeds (tests/support/seeds.h), which
# only `ctest -C nightly` knows.
# NO_THREADS: it never starts a thread (one that does ends with an error), so TSan has nothing to look for and is spared it.
set(SLUICE_NIGHTLY_SEEDS_TIMES 20)
foreach(label unit property golden integration fuzz model)
    add_custom_target(tests_${label})
endforeach()

function(sluice_add_tests)
    cmake_parse_arguments(ARG "NO_THREADS" "NAME;LABEL;TIMEOUT" "SOURCES;LIBRARIES" ${ARGN})
    if(ARG_NO_THREADS AND SLUICE_SANITIZE MATCHES "thread")
        return()
    endif()
    if(NOT ARG_TIMEOUT)
        set(ARG_TIMEOUT 120)
    endif()
    if(SLUICE_SANITIZE)
        math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")  # the sanitizers slow everything down
    endif()
    add_executable(${ARG_NAME} ${ARG_SOURCES})
    if(ARG_NO_THREADS AND NOT SLUICE_SANITIZE)
        target_sources(${ARG_NAME} PRIVATE ${PROJECT_SOURCE_DIR}/tests/support/no_threads.cpp)
    endif()
    target_link_libraries(${ARG_NAME} PRIVATE ${ARG_LIBRARIES} test_support project_warnings)
    # The tests' own files are half of what is compiled; what they time or sum up is the product's. Catch2's macros take the optimizer
    # long: -O1 for -O2 is a third less, -O0 for -O1 under ASan two fifths.
    if(SLUICE_SANITIZE)
        target_compile_options(${ARG_NAME} PRIVATE -O0)
    else()
        target_compile_options(${ARG_NAME} PRIVATE -O1)
    endif()
    if(SLUICE_SANITIZE MATCHES "undefined")
        # What is looked at for undefined behaviour is the product: its checks in the tests' own files double what these take to compile.
        target_compile_options(${ARG_NAME} PRIVATE -fno-sanitize=undefined)
    endif()
    catch_discover_tests(${ARG_NAME} TEST_PREFIX "${ARG_LABEL}/" DISCOVERY_MODE PRE_TEST
        PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} SKIP_REGULAR_EXPRESSION "SKIPPED: ")
    add_dependencies(tests_${ARG_LABEL} ${ARG_NAME})
    if(ARG_LABEL MATCHES "^(fuzz|property)$")
        math(EXPR nightly_timeout "3 * ${ARG_TIMEOUT} * ${SLUICE_NIGHTLY_SEEDS_TIMES}")  # all of its tests, on a busy machine
        add_test(NAME nightly/${ARG_NAME} CONFIGURATIONS nightly COMMAND ${ARG_NAME})
        set_tests_properties(nightly/${ARG_NAME} PROPERTIES LABELS nightly TIMEOUT ${nightly_timeout}
            ENVIRONMENT SLUICE_TEST_SEEDS_TIMES=${SLUICE_NIGHTLY_SEEDS_TIMES})
    endif()
endfunction()
