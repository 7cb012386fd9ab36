# The subcommands that need only text/: included by cli/CMakeLists.txt.
add_library(cli_text STATIC ${CMAKE_CURRENT_LIST_DIR}/json_lines.cpp ${CMAKE_CURRENT_LIST_DIR}/tokenize.cpp
    ${CMAKE_CURRENT_LIST_DIR}/render.cpp)
target_link_libraries(cli_text PUBLIC text Boost::json PRIVATE CLI11::CLI11 project_warnings)
