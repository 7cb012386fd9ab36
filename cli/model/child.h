#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace cli::model {

/// A program that is run to its end. It dies with this process and gets no standard input.
struct Child {
    std::vector<std::string> command{};                              // looked for on PATH; not empty
    std::vector<std::pair<std::string, std::string>> environment{};  // set on top of ours
    std::filesystem::path folder{};                                  // it runs in
    std::filesystem::path log{};                                     // gets what it prints, from the beginning
    std::chrono::minutes whole{360};                                 // the longest that it may take
};

/// Runs it, calling `tick` a few times a second; an error of that ends the child and is handed on. Gives its exit
/// status, 128 + n after a signal, 127 when there is no such program. Error: deadline_exceeded; internal.
base::Result<int> run_child(const Child& child, const std::function<base::Result<void>()>& tick);

}  // namespace cli::model
