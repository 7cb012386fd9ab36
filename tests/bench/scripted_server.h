#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/// An HTTP server on 127.0.0.1 whose answers are raw bytes that the test chooses: also broken ones. Every connection
/// has a thread.
class ScriptedServer {
public:
    struct Request {
        std::string method;
        std::string target;
        std::string body;
        std::string authorization;
        std::size_t number_on_connection;  // 0 for the first
    };
    struct Reply {
        std::vector<std::string> pieces;  // written one after the other
        bool close = false;               // close the connection afterwards, whatever the headers said
        bool hang = false;                // afterwards wait until the client has gone
    };
    using Handler = std::function<Reply(const Request&)>;  // called on the connection's thread

    explicit ScriptedServer(Handler handler);
    ~ScriptedServer();  // ends all connections

    /// "http://127.0.0.1:PORT"
    std::string url() const;
    /// Most requests that were being answered at the same time.
    int answering_max() const;

    /// A whole answer with Content-Length.
    static Reply json(int status, const std::string& body);
    /// A chunked text/event-stream, one chunk for each event's data; ends properly.
    static Reply events(const std::vector<std::string>& data);
    /// The data of a chat stream: role, `tokens` chunks with text, finish, usage, [DONE].
    static std::vector<std::string> chat_stream(std::uint32_t prompt_tokens, std::uint32_t tokens);

private:
    struct State;
    std::unique_ptr<State> state_;
};
