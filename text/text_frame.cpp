#include "text/text_frame.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace text {
namespace {

constexpr std::size_t kFirstRead = 64 * 1024;  // most frames come whole in one call

bool receive_all(int socket, char* to, std::size_t bytes) {
    while (bytes > 0) {
        const ssize_t got = ::recv(socket, to, bytes, 0);
        if (got < 0 && errno == EINTR) { continue; }
        if (got <= 0) {
            if (got == 0) { errno = 0; }
            return false;
        }
        to += got;
        bytes -= static_cast<std::size_t>(got);
    }
    return true;
}

/// Takes `sent` bytes off the front of what is left to send.
void advance(std::span<iovec>& left, std::size_t sent) {
    while (!left.empty() && sent >= left.front().iov_len) {
        sent -= left.front().iov_len;
        left = left.subspan(1);
    }
    if (left.empty()) { return; }
    left.front().iov_base = static_cast<char*>(left.front().iov_base) + sent;
    left.front().iov_len -= sent;
}

}  // namespace

std::string_view TextFrame::part(std::size_t index) const {
    if (index >= head.parts) { return {}; }
    std::size_t begin = 0;
    for (std::size_t before = 0; before < index; ++before) {
        begin += head.sizes[before];
    }
    return std::string_view(body_).substr(begin, head.sizes[index]);
}

bool send_frame(int socket, std::uint32_t kind, std::int64_t number, std::span<const std::string_view> parts,
                int descriptor) {
    if (parts.size() > TextFrameHead::kPartsMax) {
        errno = EMSGSIZE;
        return false;
    }
    TextFrameHead head{.kind = kind, .parts = static_cast<std::uint32_t>(parts.size()), .number = number};
    std::array<iovec, TextFrameHead::kPartsMax + 1> pieces;
    pieces[0] = {&head, sizeof(head)};
    for (std::size_t at = 0; at < parts.size(); ++at) {
        head.sizes[at] = parts[at].size();
        pieces[at + 1] = {const_cast<char*>(parts[at].data()), parts[at].size()};
    }
    std::span<iovec> left(pieces.data(), parts.size() + 1);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    while (!left.empty()) {
        msghdr message{};
        message.msg_iov = left.data();
        message.msg_iovlen = left.size();
        if (descriptor >= 0) {
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            cmsghdr* carried = CMSG_FIRSTHDR(&message);
            carried->cmsg_level = SOL_SOCKET;
            carried->cmsg_type = SCM_RIGHTS;
            carried->cmsg_len = CMSG_LEN(sizeof(int));
            std::memcpy(CMSG_DATA(carried), &descriptor, sizeof(int));
        }
        const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) { continue; }
        if (sent < 0) { return false; }
        descriptor = -1;
        advance(left, static_cast<std::size_t>(sent));
    }
    return true;
}

bool receive_frame(int socket, TextFrame& frame, std::uint64_t bytes_max, int* descriptor) {
    alignas(TextFrameHead) char first[sizeof(TextFrameHead) + kFirstRead];
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control;
    iovec piece{first, sizeof(first)};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (descriptor != nullptr) {
        *descriptor = -1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
    }
    ssize_t got = 0;
    do {
        got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        if (got == 0) { errno = 0; }
        return false;
    }
    if (descriptor != nullptr) {
        const cmsghdr* carried = CMSG_FIRSTHDR(&message);
        if (carried != nullptr && carried->cmsg_type == SCM_RIGHTS) {
            std::memcpy(descriptor, CMSG_DATA(carried), sizeof(int));
        }
    }
    auto have = static_cast<std::size_t>(got);
    if (have < sizeof(TextFrameHead)) {
        if (!receive_all(socket, first + have, sizeof(TextFrameHead) - have)) { return false; }
        have = sizeof(TextFrameHead);
    }
    std::memcpy(&frame.head, first, sizeof(TextFrameHead));
    have -= sizeof(TextFrameHead);
    std::uint64_t total = 0;
    bool is_sound = frame.head.parts <= TextFrameHead::kPartsMax;
    for (std::size_t at = 0; is_sound && at < frame.head.parts; ++at) {
        is_sound = frame.head.sizes[at] <= bytes_max - total;
        total += is_sound ? frame.head.sizes[at] : 0;
    }
    if (!is_sound || have > total) {
        errno = EMSGSIZE;
        return false;
    }
    frame.body_.assign(first + sizeof(TextFrameHead), have);
    frame.body_.resize(total);
    return receive_all(socket, frame.body_.data() + have, total - have);
}

}  // namespace text
