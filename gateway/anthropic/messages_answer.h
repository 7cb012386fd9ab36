#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/item_answer.h"
#include "gateway/openai/json_writer.h"

namespace gateway {

/// Answers of /v1/messages: the object `message` with blocks of the types thinking, text and tool_use, or the events
/// that build it up.
class MessagesAnswer final : public ItemAnswer {
public:
    MessagesAnswer(AnswerHeader header, bool streams) : header_(std::move(header)), streams_(streams) {}

    std::string open(const Usage& usage) override;
    std::string push(const AnswerEvent& event, std::string_view call_id) override;
    std::string close(const GenerationEnd& end, const Usage& usage) override;
    std::string whole(const GenerationEnd& end, const Usage& usage) override;
    std::string failed(const ApiError& error, const Usage& usage, bool is_open) override;
    std::string_view ping() const override;

private:
    enum class Kind { thinking, text, call };
    struct Block {
        Kind kind = Kind::text;
        std::string text = {};  // of a call its arguments; of a stream nothing is kept
        std::string call_id = {};
        std::string name = {};
    };
    /// Clients send back no reasoning that is not signed: here by the answer's id, which nobody looks at. `has_begun`:
    /// it is not yet.
    void write_block(JsonWriter& json, const Block& block, bool has_begun) const;
    void end_block(std::string& events);
    std::string_view stop_reason(const GenerationEnd& end) const;
    void write_stop(JsonWriter& json, const GenerationEnd& end) const;

    const AnswerHeader header_;
    const bool streams_;
    std::vector<Block> blocks_;
    bool is_block_open_ = false;
    bool has_calls_ = false;
};

}  // namespace gateway
