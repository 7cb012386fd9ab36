# Every library comes from the distribution (scripts/bootstrap names the packages).
find_package(Threads REQUIRED)
find_package(Boost 1.81.0 CONFIG REQUIRED COMPONENTS headers json)
find_package(prometheus-cpp CONFIG REQUIRED)
find_package(yaml-cpp CONFIG REQUIRED)
find_package(spdlog CONFIG REQUIRED)
find_package(CLI11 CONFIG REQUIRED)
find_package(tl-expected CONFIG REQUIRED)
find_package(Catch2 CONFIG REQUIRED)
include(Catch)
find_package(CURL 7.85 REQUIRED)  # CURLOPT_PROTOCOLS_STR
find_package(OpenSSL REQUIRED)
find_package(ZLIB REQUIRED)
find_package(SQLite3 3.40 REQUIRED)
# By hand: the CMake files of Debian 12's libzip name programs of packages that are not needed.
find_path(LIBZIP_INCLUDE_DIR zip.h REQUIRED)
find_library(LIBZIP_LIBRARY zip REQUIRED)
add_library(libzip::library UNKNOWN IMPORTED)
set_target_properties(libzip::library PROPERTIES IMPORTED_LOCATION "${LIBZIP_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LIBZIP_INCLUDE_DIR}")
find_path(LIBURING_INCLUDE_DIR liburing.h REQUIRED)
find_library(LIBURING_LIBRARY uring REQUIRED)
add_library(liburing::liburing UNKNOWN IMPORTED)
set_target_properties(liburing::liburing PROPERTIES IMPORTED_LOCATION "${LIBURING_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LIBURING_INCLUDE_DIR}")
# By hand: Debian 12's package has no CMake files.
find_path(LIBZMQ_INCLUDE_DIR zmq.h REQUIRED)
find_library(LIBZMQ_LIBRARY zmq REQUIRED)
add_library(libzmq::libzmq UNKNOWN IMPORTED)
set_target_properties(libzmq::libzmq PROPERTIES IMPORTED_LOCATION "${LIBZMQ_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LIBZMQ_INCLUDE_DIR}")
# By hand: Debian 12's package has no CMake files.
find_path(HIREDIS_INCLUDE_DIR hiredis/hiredis.h REQUIRED)
find_library(HIREDIS_LIBRARY hiredis REQUIRED)
add_library(hiredis::hiredis UNKNOWN IMPORTED)
set_target_properties(hiredis::hiredis PROPERTIES IMPORTED_LOCATION "${HIREDIS_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${HIREDIS_INCLUDE_DIR}")
find_package(Protobuf REQUIRED)
if(NOT SLUICE_CORE_ONLY)
    find_package(gRPC CONFIG REQUIRED)
    # By hand: the CMake files of Debian 13's UCX package name folders that are not there (/usr/lib/include, /usr/lib/lib).
    find_path(UCX_INCLUDE_DIR ucp/api/ucp.h REQUIRED)
    foreach(name ucp ucs)
        find_library(UCX_${name}_LIBRARY ${name} REQUIRED)
        add_library(ucx::${name} UNKNOWN IMPORTED)
        set_target_properties(ucx::${name} PROPERTIES IMPORTED_LOCATION "${UCX_${name}_LIBRARY}"
            INTERFACE_INCLUDE_DIRECTORIES "${UCX_INCLUDE_DIR}")
    endforeach()
endif()
