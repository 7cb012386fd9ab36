#include "gateway/http/body_reader.h"

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/optional/optional.hpp>
#include <cstdint>
#include <string>
#include <utility>

#include "base/check.h"

namespace gateway {
namespace {

namespace beast_http = boost::beast::http;

/// A body that takes memory as its bytes come. Beast's string_body reserves the declared length at once.
struct GrowingBody {
    using value_type = std::string;
    class reader {  // Beast's name
    public:
        template <bool is_request, class Fields>
        reader(beast_http::header<is_request, Fields>&, value_type& body) : body_(body) {}
        void init(const boost::optional<std::uint64_t>&, boost::beast::error_code& error) { error = {}; }
        template <class Buffers>
        std::size_t put(const Buffers& buffers, boost::beast::error_code& error) {
            error = {};
            const std::size_t before = body_.size();
            for (const boost::asio::const_buffer part : boost::beast::buffers_range_ref(buffers)) {
                body_.append(static_cast<const char*>(part.data()), part.size());
            }
            return body_.size() - before;
        }
        void finish(boost::beast::error_code& error) { error = {}; }

    private:
        value_type& body_;
    };
};

constexpr std::size_t kChunkLineBytesMax = 1024;  // size, extensions, and the line end before them

tl::unexpected<HttpRefusal> refuse(unsigned status, std::string message) {
    return tl::unexpected<HttpRefusal>(HttpRefusal{status, std::move(message)});
}

/// The bytes in front of chunk data: "\r\n" (after data), then size, extensions, "\r\n". Every line feed needs its
/// carriage return, and no other control character but a tab may come.
bool has_stray_control(std::string_view text) {
    for (std::size_t at = 0; at < text.size(); ++at) {
        const auto byte = static_cast<unsigned char>(text[at]);
        if (byte == '\r') {
            if (at + 1 < text.size() && text[at + 1] != '\n') { return true; }
        } else if (byte == '\n') {
            if (at == 0 || text[at - 1] != '\r') { return true; }
        } else if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
            return true;
        }
    }
    return false;
}

}  // namespace

struct BodyReader::State {
    beast_http::request_parser<GrowingBody> parser;
    HttpLimits limits;
    bool chunked = false;
};

BodyReader::BodyReader(std::string_view head_text, const RequestHead& head, const HttpLimits& limits)
    : state_(std::make_unique<State>()) {
    state_->limits = limits;
    state_->chunked = head.chunked;
    auto& parser = state_->parser;
    parser.header_limit(static_cast<std::uint32_t>(limits.header_bytes_max));
    parser.body_limit(limits.body_bytes_max);
    parser.eager(false);
    boost::beast::error_code error;
    // One structure a call: the head now, then one chunk line or one run of data, so that chunk lines can be looked at.
    // The gate is stricter than Beast. Should Beast ever refuse what passed, feed() says so.
    parser.put(boost::asio::buffer(head_text.data(), head_text.size()), error);
}

BodyReader::~BodyReader() = default;

tl::expected<std::size_t, HttpRefusal> BodyReader::feed(std::string_view received) {
    State& state = *state_;
    auto& parser = state.parser;
    std::size_t taken = 0;
    if (!parser.is_header_done()) { return refuse(400, "malformed request header"); }
    while (!parser.is_done() && taken < received.size()) {
        const std::string_view rest = received.substr(taken);
        const std::size_t body_before = parser.get().body().size();
        boost::beast::error_code error;
        const std::size_t used = parser.put(boost::asio::buffer(rest.data(), rest.size()), error);
        taken += used;
        if (state.chunked && parser.get().body().size() == body_before && has_stray_control(rest.substr(0, used))) {
            return refuse(400, "malformed chunk");
        }
        if (error == beast_http::error::need_more) {
            if (used > 0) { continue; }
            if (state.chunked && (rest.size() > kChunkLineBytesMax || has_stray_control(rest))) {
                return refuse(400, "malformed chunk");
            }
            break;
        }
        if (error == beast_http::error::body_limit) {
            return refuse(413, "the body is larger than " + std::to_string(state.limits.body_bytes_max) + " bytes");
        }
        if (error) { return refuse(400, "malformed body: " + error.message()); }
        if (used == 0) { break; }
    }
    return taken;
}

bool BodyReader::done() const {
    return state_->parser.is_done();
}

std::string BodyReader::take() {
    CHECK(done());
    return std::move(state_->parser.get().body());
}

}  // namespace gateway
