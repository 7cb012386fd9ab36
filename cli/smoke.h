#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cli {

/// `sluice smoke`: whether a gateway does what its clients need, in a few requests.
struct SmokeCommand {
    std::string url = "http://127.0.0.1:8000";
    std::string api_key;
    std::string model;    // empty: the first that is served
    std::string encoder;  // empty: none is asked
    std::uint32_t timeout_s = 60;
    bool json = false;
};
void add_smoke(CLI::App& app, SmokeCommand& command);
/// Exit status 0 when nothing was found wrong, else 1.
int smoke_main(const SmokeCommand& command);

// What is wrong with the body of an answer with status 200; empty: nothing. Pure.

/// Of a chat that is not streamed.
std::optional<std::string> chat_problem(std::string_view body);
/// Of a streamed chat with usage: all of its events.
std::optional<std::string> stream_problem(std::string_view body);
/// Of embeddings of one text.
std::optional<std::string> embedding_problem(std::string_view body);
/// Of a list of models that must hold `model`; empty: any.
std::optional<std::string> models_problem(std::string_view body, std::string_view model);

}  // namespace cli
