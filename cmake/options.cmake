# Compiler settings that hold for all of our own code.
add_library(project_warnings INTERFACE)
set(warnings -Wall -Wextra -Wconversion -Wshadow -Wnon-virtual-dtor -Werror)
target_compile_options(project_warnings INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${warnings}>")

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    # False alarms of newer g++ about the string inside an empty std::optional<std::string>.
    target_compile_options(project_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
endif()

if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(project_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-warning-option>)
endif()

# Numbers do not depend on company: no contraction behind our back, FMA is written explicitly.
# (nvcc knows neither option; what it hands to g++ gets them too.)
add_compile_options($<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off> $<$<COMPILE_LANGUAGE:C,CXX>:-fno-omit-frame-pointer>
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off,-fno-omit-frame-pointer>)

if(SLUICE_SANITIZE)
    add_compile_options(-fsanitize=${SLUICE_SANITIZE} -fno-sanitize-recover=all)
    add_link_options(-fsanitize=${SLUICE_SANITIZE})
    add_compile_definitions(SLUICE_SANITIZED)  # compilers have macros of their own, each another one
    if(SLUICE_SANITIZE MATCHES "address" AND SLUICE_SANITIZE MATCHES "undefined")
        # What ASan sees as well, and casts down a hierarchy, of which there are few: less to compile.
        add_compile_options(-fno-sanitize=null,object-size,vptr)
    endif()
    if(SLUICE_SANITIZE MATCHES "thread")
        # Asio's fences are invisible to ThreadSanitizer; its other synchronisation is not.
        add_compile_definitions(BOOST_ASIO_DISABLE_FENCED_BLOCK BOOST_ASIO_DISABLE_STD_ATOMIC)
        if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
            add_compile_options(-Wno-tsan)
        endif()
    endif()
endif()

# Against what a bug in a parser could be made into; scripts/check-hardening looks for it in the binary. Not with sanitizers,
# whose own checks replace it, nor in Debug builds. (docs/security.md has its cost.)
option(SLUICE_HARDEN "fortified sources, stack protector, CET, full RELRO" ON)
if(SLUICE_HARDEN AND NOT SLUICE_SANITIZE AND NOT CMAKE_BUILD_TYPE STREQUAL "Debug")
    set(SLUICE_HARDENING -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -fstack-protector-strong -fstack-clash-protection)
    if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
        list(APPEND SLUICE_HARDENING -fcf-protection=full)
    endif()
    add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-fPIE;${SLUICE_HARDENING}>")
    add_link_options(-pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
endif()

# Binaries of one commit are the same bytes wherever they are built (scripts/check-reproducible; decision 0100): no names of folders are in
# them, and what the compiler needs a name of its own for is named after the object. Of C and C++: nvcc's part is not looked at.
option(SLUICE_REPRODUCIBLE "binaries that do not depend on the folder of their build" OFF)
if(SLUICE_REPRODUCIBLE)
    foreach(language C CXX)
        add_compile_options($<$<COMPILE_LANGUAGE:${language}>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}=.>)
        string(REPLACE "<FLAGS>" "<FLAGS> -frandom-seed=<OBJECT>" CMAKE_${language}_COMPILE_OBJECT "${CMAKE_${language}_COMPILE_OBJECT}")
    endforeach()
endif()

find_program(MOLD_LINKER mold)
if(MOLD_LINKER)
    add_link_options(-fuse-ld=mold)
endif()
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
include_directories(${CMAKE_SOURCE_DIR})
