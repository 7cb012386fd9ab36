#include "tests/bench/scripted_server.h"

#include <algorithm>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cstdio>
#include <list>
#include <mutex>
#include <thread>

namespace asio = boost::asio;
namespace http = boost::beast::http;
using tcp = asio::ip::tcp;

struct ScriptedServer::State {
    explicit State(Handler new_handler)
        : handler(std::move(new_handler)), acceptor(io, tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {}

    void accept_all() {
        while (true) {
            auto socket = std::make_shared<tcp::socket>(io);
            boost::system::error_code error;
            acceptor.accept(*socket, error);
            const std::scoped_lock lock(mutex);
            if (error || is_stopping) { return; }
            socket->set_option(tcp::no_delay(true), error);
            sockets.push_back(socket);
            threads.emplace_back([this, socket] { serve(*socket); });
        }
    }

    void serve(tcp::socket& socket) {
        boost::beast::flat_buffer buffer;
        boost::system::error_code error;
        for (std::size_t number = 0;; ++number) {
            http::request<http::string_body> request;
            http::read(socket, buffer, request, error);
            if (error) { break; }
            const int now = ++answering;
            int seen = most_answering.load();
            while (now > seen && !most_answering.compare_exchange_weak(seen, now)) {}
            const Reply reply = handler({.method = std::string(request.method_string()),
                                         .target = std::string(request.target()),
                                         .body = request.body(),
                                         .authorization = std::string(request[http::field::authorization]),
                                         .number_on_connection = number});
            --answering;
            for (const std::string& piece : reply.pieces) {
                asio::write(socket, asio::buffer(piece), error);
            }
            if (reply.hang) {
                char byte = 0;
                socket.read_some(asio::buffer(&byte, 1), error);
            }
            if (reply.close || reply.hang) { break; }
        }
        socket.shutdown(tcp::socket::shutdown_both, error);
    }

    Handler handler;
    asio::io_context io;
    tcp::acceptor acceptor;
    std::mutex mutex;
    std::list<std::shared_ptr<tcp::socket>> sockets;  // guarded by mutex
    std::list<std::jthread> threads;                  // guarded by mutex until the acceptor's thread has ended
    bool is_stopping = false;                         // guarded by mutex
    std::atomic<int> answering{0};
    std::atomic<int> most_answering{0};
    std::jthread accepting;
};

ScriptedServer::ScriptedServer(Handler handler) : state_(std::make_unique<State>(std::move(handler))) {
    state_->accepting = std::jthread([state = state_.get()] { state->accept_all(); });
}

ScriptedServer::~ScriptedServer() {
    const tcp::endpoint address = state_->acceptor.local_endpoint();
    boost::system::error_code error;
    {
        const std::scoped_lock lock(state_->mutex);
        state_->is_stopping = true;
        for (auto& socket : state_->sockets) {
            socket->shutdown(tcp::socket::shutdown_both, error);
        }
    }
    tcp::socket last(state_->io);
    last.connect(address, error);  // wakes accept()
    state_->accepting.join();
    state_->threads.clear();
}

std::string ScriptedServer::url() const {
    return "http://127.0.0.1:" + std::to_string(state_->acceptor.local_endpoint().port());
}

int ScriptedServer::answering_max() const {
    return state_->most_answering.load();
}

ScriptedServer::Reply ScriptedServer::json(int status, const std::string& body) {
    return {.pieces = {"HTTP/1.1 " + std::to_string(status) +
                       " Any\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                       "\r\n\r\n" + body}};
}

ScriptedServer::Reply ScriptedServer::events(const std::vector<std::string>& data) {
    Reply reply{.pieces = {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"}};
    for (const std::string& text : data) {
        const std::string event = "data: " + text + "\n\n";
        char length[32];
        std::snprintf(length, sizeof length, "%zx\r\n", event.size());
        reply.pieces.push_back(length + event + "\r\n");
    }
    reply.pieces.emplace_back("0\r\n\r\n");
    return reply;
}

std::vector<std::string> ScriptedServer::chat_stream(std::uint32_t prompt_tokens, std::uint32_t tokens) {
    std::vector<std::string> data{
        R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]})"};
    for (std::uint32_t i = 0; i < tokens; ++i) {
        data.emplace_back(R"({"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]})");
    }
    data.emplace_back(R"({"choices":[{"index":0,"delta":{},"finish_reason":"length"}]})");
    data.push_back(R"({"choices":[],"usage":{"prompt_tokens":)" + std::to_string(prompt_tokens) +
                   R"(,"completion_tokens":)" + std::to_string(tokens) +
                   R"(,"prompt_tokens_details":{"cached_tokens":1}}})");
    data.emplace_back("[DONE]");
    return data;
}
