#include "cli/http_probe.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

namespace cli {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

bool answers_ok(std::uint16_t port, const std::string& target) {
    asio::io_context io;
    beast::tcp_stream stream(io);
    stream.expires_after(std::chrono::seconds(2));
    http::request<http::empty_body> request{http::verb::get, target, 11};
    request.set(http::field::host, "127.0.0.1");
    request.set(http::field::connection, "close");
    beast::flat_buffer buffer;
    http::response<http::string_body> response;
    bool is_ok = false;
    stream.async_connect(asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), port), [&](beast::error_code error) {
        if (error) { return; }
        http::async_write(stream, request, [&](beast::error_code write_error, std::size_t) {
            if (write_error) { return; }
            http::async_read(stream, buffer, response, [&](beast::error_code read_error, std::size_t) {
                is_ok = !read_error && response.result() == http::status::ok;
            });
        });
    });
    io.run();
    return is_ok;
}

}  // namespace cli
