# bench_machine: the limits of this machine, the engine's operators beside them, and its whole steps. Included by bench/CMakeLists.txt.
add_library(bench_machine STATIC engine_steps.cpp kernels.cpp machine.cpp machine_amx.cpp machine_avx2.cpp machine_avx512.cpp machine_flags.cpp)
target_link_libraries(bench_machine PUBLIC base PRIVATE engine engine_kernels Boost::json CLI11::CLI11 project_warnings)
set_source_files_properties(machine.cpp PROPERTIES COMPILE_OPTIONS "-O2")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    # The last two: false alarms in g++ 12's own intrinsics.
    set_source_files_properties(machine_avx2.cpp PROPERTIES COMPILE_OPTIONS "-O3;-mavx2;-mfma")
    set_source_files_properties(machine_avx512.cpp PROPERTIES COMPILE_OPTIONS
        "-O3;-mavx512f;-mavx512bf16;-mavx512vnni;-mprefer-vector-width=512;-Wno-uninitialized;-Wno-maybe-uninitialized")
    set_source_files_properties(machine_amx.cpp PROPERTIES COMPILE_OPTIONS "-O3;-mamx-tile;-mamx-bf16")
endif()
