# The CUDA backend: on, off, or (AUTO) on where a toolkit 13 is found. Needs neither a GPU nor a driver to build.
# scripts/bootstrap --cuda installs a toolkit into .cuda; SLUICE_CUDA_ROOT names another one.
# Gives: SLUICE_WITH_CUDA, and where it is true the targets
#   cuda_runtime  headers and the static runtime, which itself loads the driver's library when it is first used
#   cuda_blas     headers of cuBLASLt and libcublasLt;  cuda_nccl  the same of NCCL
# The binary `sluice` links only the first: it must also start where the other two are missing (device/cuda/loaded_*).
set(SLUICE_CUDA AUTO CACHE STRING "build the CUDA backend: ON, OFF or AUTO (where a toolkit 13 is found)")
set_property(CACHE SLUICE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SLUICE_CUDA_ROOT "" CACHE PATH "folder of a CUDA toolkit 13 (with bin/nvcc); empty: the usual places")
set(SLUICE_CUDA_ARCHITECTURES "90a-real;90-virtual" CACHE STRING
    "what the kernels are compiled for; the default: Hopper, and PTX that later GPUs compile when they load it")

set(SLUICE_WITH_CUDA FALSE)
if(NOT SLUICE_CUDA MATCHES "^(ON|OFF|AUTO)$")
    message(FATAL_ERROR "SLUICE_CUDA is '${SLUICE_CUDA}', must be ON, OFF or AUTO")
endif()
if(SLUICE_SANITIZE AND SLUICE_CUDA STREQUAL "AUTO")
    return()  # the CUDA runtime is not instrumented; say ON to try all the same
endif()
if(SLUICE_CUDA STREQUAL "OFF")
    return()
endif()

# --- which toolkit --------------------------------------------------------------------------------------------------
if(SLUICE_CUDA_ROOT)
    set(places ${SLUICE_CUDA_ROOT})
elseif(DEFINED ENV{SLUICE_CUDA_ROOT})
    set(places $ENV{SLUICE_CUDA_ROOT})
else()
    set(places ${CMAKE_SOURCE_DIR}/.cuda/toolkit $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda /usr/local/cuda-13
        /usr/local/cuda-13.0 /opt/cuda)
endif()
set(cuda_root "")
set(seen "")
foreach(place ${places})
    if(cuda_root OR NOT EXISTS ${place}/bin/nvcc)
        continue()
    endif()
    execute_process(COMMAND ${place}/bin/nvcc --version OUTPUT_VARIABLE version ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" version "${version}")
    set(version "${CMAKE_MATCH_1}")
    if(version VERSION_GREATER_EQUAL 13.0 AND version VERSION_LESS 14)
        set(cuda_root ${place})
    else()
        string(APPEND seen " (${place} has ${version})")
    endif()
endforeach()
if(NOT cuda_root)
    if(SLUICE_CUDA STREQUAL "ON")
        string(REPLACE ";" " " places "${places}")
        message(FATAL_ERROR "no CUDA toolkit 13 in ${places}${seen}: run scripts/bootstrap --cuda, or name one with -DSLUICE_CUDA_ROOT=...")
    endif()
    message(STATUS "CUDA: no toolkit 13 found${seen}; built without (scripts/bootstrap --cuda installs one)")
    return()
endif()

# --- its libraries --------------------------------------------------------------------------------------------------
find_library(SLUICE_CUDART_LIBRARY cudart_static PATHS ${cuda_root}/lib64 ${cuda_root}/lib NO_DEFAULT_PATH)
find_library(SLUICE_CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.13 PATHS ${cuda_root}/lib64 ${cuda_root}/lib
    NO_DEFAULT_PATH)
find_path(SLUICE_NCCL_INCLUDE nccl.h
    PATHS ${cuda_root}/../nccl/include ${CMAKE_SOURCE_DIR}/.cuda/nccl/include ${cuda_root}/include)
find_library(SLUICE_NCCL_LIBRARY NAMES nccl libnccl.so.2
    PATHS ${cuda_root}/../nccl/lib ${CMAKE_SOURCE_DIR}/.cuda/nccl/lib ${cuda_root}/lib64 ${cuda_root}/lib)
set(missing "")
foreach(part CUDART_LIBRARY CUBLASLT_LIBRARY NCCL_INCLUDE NCCL_LIBRARY)
    if(NOT SLUICE_${part})
        string(APPEND missing " ${part}")
    endif()
endforeach()
if(missing)
    # A toolkit from NVIDIA's installer has no NCCL.
    set(remedy "scripts/bootstrap --cuda installs a toolkit with all of it, -DSLUICE_NCCL_INCLUDE and the like name what is elsewhere")
    if(SLUICE_CUDA STREQUAL "ON")
        message(FATAL_ERROR "the CUDA toolkit in ${cuda_root} lacks${missing}: ${remedy}")
    endif()
    message(STATUS "CUDA: the toolkit in ${cuda_root} lacks${missing}; built without (${remedy})")
    return()
endif()

# --- compiler and targets -------------------------------------------------------------------------------------------
set(CMAKE_CUDA_COMPILER ${cuda_root}/bin/nvcc)
set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
set(CMAKE_CUDA_ARCHITECTURES ${SLUICE_CUDA_ARCHITECTURES})
if(CCACHE_PROGRAM AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)

add_library(cuda_runtime INTERFACE)
target_include_directories(cuda_runtime SYSTEM INTERFACE ${cuda_root}/include)
target_link_libraries(cuda_runtime INTERFACE ${SLUICE_CUDART_LIBRARY} Threads::Threads ${CMAKE_DL_LIBS} rt)
add_library(cuda_blas INTERFACE)
target_link_libraries(cuda_blas INTERFACE cuda_runtime ${SLUICE_CUBLASLT_LIBRARY})
add_library(cuda_nccl INTERFACE)
target_include_directories(cuda_nccl SYSTEM INTERFACE ${SLUICE_NCCL_INCLUDE})
target_link_libraries(cuda_nccl INTERFACE cuda_runtime ${SLUICE_NCCL_LIBRARY})

# The least compute capability of the list; 0 for "native" and the like.
set(SLUICE_CUDA_SM_MINIMUM 0)
foreach(architecture ${SLUICE_CUDA_ARCHITECTURES})
    if(architecture MATCHES "^([0-9]+)" AND (SLUICE_CUDA_SM_MINIMUM EQUAL 0 OR CMAKE_MATCH_1 LESS SLUICE_CUDA_SM_MINIMUM))
        set(SLUICE_CUDA_SM_MINIMUM ${CMAKE_MATCH_1})
    endif()
endforeach()
set(SLUICE_CUDA_TOOLKIT ${cuda_root})
set(SLUICE_WITH_CUDA TRUE)
message(STATUS "CUDA: toolkit ${CMAKE_CUDA_COMPILER_VERSION} in ${cuda_root}, for ${CMAKE_CUDA_ARCHITECTURES}")
