#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/item_answer.h"
#include "gateway/openai/json_writer.h"

namespace gateway {

/// Answers of /v1/responses: the object `response` with its items of the types reasoning, message, function_call and
/// custom_tool_call, or the events that build it up, each with its number.
class ResponsesAnswer final : public ItemAnswer {
public:
    /// `shown_fields`: what of the request is repeated, as JSON members (RequestForm::shown_fields). Calls of tools in
    /// a namespace that are among them get back the names that the client knows them by, those of custom ones their
    /// form.
    ResponsesAnswer(AnswerHeader header, std::string shown_fields, bool streams);

    std::string open(const Usage& usage) override;
    std::string push(const AnswerEvent& event, std::string_view call_id) override;
    std::string close(const GenerationEnd& end, const Usage& usage) override;
    std::string whole(const GenerationEnd& end, const Usage& usage) override;
    std::string failed(const ApiError& error, const Usage& usage, bool is_open) override;
    std::string_view ping() const override { return kSsePing; }

private:
    /// That the model knows otherwise than the client.
    struct OtherTool {
        std::string name_space;
        std::string name;
        bool is_custom = false;
    };
    enum class Kind { reasoning, message, call };
    struct Item {
        Kind kind = Kind::message;
        std::string id;
        std::string text = {};  // of a call its arguments, of a custom one that has ended its input
        std::string call_id = {};
        std::string name = {};
        std::string name_space = {};  // empty: none
        bool is_custom = false;
        std::string_view status = "in_progress";
    };
    struct Told {
        std::string_view status;
        const ApiError* error = nullptr;
        const Usage* usage = nullptr;
    };

    void begin_item(std::string& events, Item item);
    /// The last item gets no more parts.
    void end_item(std::string& events, std::string_view status);
    /// An answer has at least a message.
    void end_items(std::string& events, const GenerationEnd& end);
    void add_text(std::string& events, std::string_view text);
    void write_item(JsonWriter& json, const Item& item) const;
    void write_part(JsonWriter& json, const Item& item) const;
    void write_response(JsonWriter& json, const Told& told) const;
    JsonWriter begin_event(std::string_view type);
    /// An event about the last item, up to what it says of it.
    JsonWriter begin_item_event(std::string_view type, bool names_part);
    void response_event(std::string& events, std::string_view type, const Told& told);
    std::string item_id(std::string_view prefix) const;
    /// Gives a call the name and the kind of its tool as the client knows it.
    void name_call(Item& item, std::string_view name) const;

    const AnswerHeader header_;
    const std::string shown_fields_;
    const bool streams_;
    std::vector<OtherTool> other_tools_;
    std::vector<Item> items_;
    bool is_item_open_ = false;
    std::int64_t next_number_ = 0;
};

}  // namespace gateway
