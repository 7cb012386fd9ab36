# `sluice model make`: included by cli/CMakeLists.txt.
add_library(cli_model_make STATIC ${CMAKE_CURRENT_LIST_DIR}/model_make.cpp)
target_link_libraries(cli_model_make PUBLIC base engine PRIVATE Boost::json CLI11::CLI11 project_warnings)
