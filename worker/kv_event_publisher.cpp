#include "worker/kv_event_publisher.h"

#include <sys/eventfd.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"

namespace worker {
namespace {

using base::ErrorCode;

constexpr int kLingerMs = 1000;
constexpr int kRequestBytesMax = 1024;               // of a subscription or a request; longer ones end their connection
constexpr int kRequestsWaitingMax = 64;              // of one client
constexpr std::size_t kRepliesMax = 8;               // clients that are answered at a time; others ask again
constexpr std::size_t kReplyPart = 32;               // batches of one answer before it is looked whether there is news
constexpr int kReplyPauseMs = 20;                    // while all clients are full
constexpr std::chrono::seconds kReplyPatience{10};   // with a client that takes nothing
constexpr std::chrono::seconds kRetellingPause{10};  // between two times that all is told for who asked too late

std::array<char, 8> big_endian(std::uint64_t number) {
    std::array<char, 8> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<char>(number >> (8 * (bytes.size() - 1 - i)));
    }
    return bytes;
}

std::string_view view_of(const std::array<char, 8>& bytes) {
    return {bytes.data(), bytes.size()};
}

/// A ZeroMQ message; copies share its bytes.
class Frame {
public:
    Frame() { zmq_msg_init(&message_); }
    explicit Frame(std::string_view bytes) {
        CHECK(zmq_msg_init_size(&message_, bytes.size()) == 0, "no memory for " << bytes.size() << " bytes");
        if (!bytes.empty()) { std::memcpy(zmq_msg_data(&message_), bytes.data(), bytes.size()); }
    }
    Frame(const Frame& other) : Frame() { zmq_msg_copy(&message_, &other.message_); }
    Frame& operator=(const Frame&) = delete;
    Frame(Frame&& other) noexcept : Frame() { zmq_msg_move(&message_, &other.message_); }
    Frame& operator=(Frame&& other) noexcept {
        zmq_msg_move(&message_, &other.message_);
        return *this;
    }
    ~Frame() { zmq_msg_close(&message_); }

    std::size_t size() const { return zmq_msg_size(&message_); }
    std::string_view view() const { return {static_cast<const char*>(zmq_msg_data(&message_)), size()}; }
    /// False: errno says why. Never waits.
    bool receive(void* socket) { return zmq_msg_recv(&message_, socket, ZMQ_DONTWAIT) >= 0; }
    /// The same; the frame is empty afterwards.
    bool send(void* socket, bool more) {
        return zmq_msg_send(&message_, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) >= 0;
    }

private:
    mutable zmq_msg_t message_;  // of which copies and views change nothing that can be seen
};

bool set(void* socket, int option, int value) {
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

}  // namespace

/// Context and sockets; the thread's, once it runs.
struct KvEventPublisher::Sockets {
    Sockets() : context(zmq_ctx_new()), event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
    ~Sockets() {
        if (publisher != nullptr) { zmq_close(publisher); }
        if (router != nullptr) { zmq_close(router); }
        zmq_ctx_term(context);  // waits for what lingers
        if (event >= 0) { ::close(event); }
    }
    Sockets(const Sockets&) = delete;
    Sockets& operator=(const Sockets&) = delete;

    /// Listens; the address with the port that it got.
    base::Result<std::string> bind(void*& socket, int type, const std::string& endpoint, std::size_t batches_max) {
        socket = zmq_socket(context, type);
        bool is_set = socket != nullptr && set(socket, ZMQ_LINGER, kLingerMs) &&
                      set(socket, ZMQ_SNDHWM, static_cast<int>(batches_max)) &&
                      set(socket, ZMQ_RCVHWM, kRequestsWaitingMax) && set(socket, ZMQ_TCP_KEEPALIVE, 1) &&
                      set(socket, ZMQ_IPV6, endpoint.find('[') != std::string::npos ? 1 : 0);
        const std::int64_t bytes_max = kRequestBytesMax;
        is_set = is_set && zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max) == 0;
        // Who is full is told, not waited for.
        is_set = is_set && set(socket, type == ZMQ_PUB ? ZMQ_XPUB_NODROP : ZMQ_ROUTER_MANDATORY, 1);
        std::array<char, 512> bound{};
        std::size_t size = bound.size();
        if (!is_set || zmq_bind(socket, endpoint.c_str()) != 0 ||
            zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound.data(), &size) != 0) {
            return base::fail(ErrorCode::failed_precondition,
                              "cannot listen at " + endpoint + ": " + zmq_strerror(zmq_errno()));
        }
        return std::string(bound.data());
    }

    void* context;
    int event;  // readable: somebody wants the thread
    void* publisher = nullptr;
    void* router = nullptr;  // null: nothing is sent again
};

/// What the publisher's thread has and does.
class KvEventPublisher::Desk {
public:
    Desk(KvEventPublisher& owner, const base::Clock& clock, base::Metrics& metrics)
        : owner_(owner),
          sockets_(*owner.sockets_),
          clock_(clock),
          topic_(owner.options_.topic),
          sent_(batches(metrics, owner.options_.worker, "sent")),
          full_(batches(metrics, owner.options_.worker, "subscriber_full")),
          replays_complete_(replays(metrics, owner.options_.worker, "complete")),
          replays_late_(replays(metrics, owner.options_.worker, "too_late")),
          replays_given_up_(replays(metrics, owner.options_.worker, "given_up")),
          replays_refused_(replays(metrics, owner.options_.worker, "refused")) {}

    static prometheus::Counter& batches(base::Metrics& metrics, const std::string& worker, const char* outcome) {
        return metrics.counter("sluice_worker_kv_event_batches_total",
                               "Batches of KV events for other routers, by what became of them",
                               {{"worker", worker}, {"outcome", outcome}});
    }
    static prometheus::Counter& replays(base::Metrics& metrics, const std::string& worker, const char* outcome) {
        return metrics.counter("sluice_worker_kv_event_replays_total",
                               "Times that a router asked for KV events again, by outcome",
                               {{"worker", worker}, {"outcome", outcome}});
    }

    void run() {
        while (true) {
            const bool is_ending = owner_.is_ending_;
            for (const KvEventBatch& batch : owner_.queue_.drain()) {
                publish(kv_event_payload(batch, owner_.options_.form));
            }
            if (is_ending) { return; }
            if (sockets_.router != nullptr) { take_requests(); }
            const bool is_full = answer();
            std::array<zmq_pollitem_t, 2> items{
                zmq_pollitem_t{.socket = nullptr, .fd = sockets_.event, .events = ZMQ_POLLIN, .revents = 0},
                zmq_pollitem_t{.socket = sockets_.router, .fd = -1, .events = ZMQ_POLLIN, .revents = 0}};
            const long timeout = replies_.empty() ? -1 : is_full ? kReplyPauseMs : 0;
            zmq_poll(items.data(), sockets_.router == nullptr ? 1 : 2, timeout);
            std::uint64_t wakes = 0;
            [[maybe_unused]] const ssize_t taken = ::read(sockets_.event, &wakes, sizeof wakes);
        }
    }

private:
    struct Kept {
        std::uint64_t number = 0;
        Frame payload;
    };
    /// Batches that one client gets again.
    struct Reply {
        Frame client;
        std::uint64_t next = 0;
        base::TimePoint give_up;
    };

    void publish(const std::string& text) {
        const std::uint64_t number = next_number_++;
        Frame payload(text);
        const bool none_is_full = send_live(number, payload);
        if (!none_is_full) {  // it goes to the others
            full_.Increment();
            set(sockets_.publisher, ZMQ_XPUB_NODROP, 0);
            send_live(number, payload);
            set(sockets_.publisher, ZMQ_XPUB_NODROP, 1);
        }
        sent_.Increment();
        if (sockets_.router == nullptr) { return; }
        kept_bytes_ += payload.size();
        kept_.push_back({number, std::move(payload)});
        while (kept_.size() > owner_.options_.kept_batches_max ||
               (kept_bytes_ > owner_.options_.kept_bytes_max && kept_.size() > 1)) {
            kept_bytes_ -= kept_.front().payload.size();
            kept_.pop_front();
        }
    }

    /// False: a subscriber is full, and nothing was sent to anybody.
    bool send_live(std::uint64_t number, const Frame& payload) {
        if (!Frame(topic_).send(sockets_.publisher, true)) { return false; }
        Frame(big_endian_frame(number)).send(sockets_.publisher, true);
        Frame(payload).send(sockets_.publisher, false);
        return true;
    }

    static Frame big_endian_frame(std::uint64_t number) { return Frame(view_of(big_endian(number))); }

    void take_requests() {
        while (true) {
            std::vector<Frame> frames;
            bool has_more = true;
            while (has_more) {
                Frame frame;
                if (!frame.receive(sockets_.router)) { break; }
                int more = 0;
                std::size_t size = sizeof more;
                has_more = zmq_getsockopt(sockets_.router, ZMQ_RCVMORE, &more, &size) == 0 && more != 0;
                if (frames.size() < 4) { frames.push_back(std::move(frame)); }  // three are a request
            }
            if (frames.empty()) { return; }
            take_request(frames);
        }
    }

    void take_request(std::vector<Frame>& frames) {
        const bool is_request = frames.size() == 3 && frames[1].size() == 0 && frames[2].size() == 8;
        if (!is_request || replies_.size() >= kRepliesMax) {
            spdlog::debug("KV events: a request for batches is not taken: {}",
                          is_request ? "too many wait" : "not an empty frame and 8 bytes");
            replays_refused_.Increment();
            return;
        }
        std::uint64_t first = 0;
        for (const char byte : frames[2].view()) {
            first = (first << 8) | static_cast<unsigned char>(byte);
        }
        const std::uint64_t oldest = next_number_ - kept_.size();
        if (first < oldest) {
            replays_late_.Increment();
            const base::TimePoint now = clock_.now();
            if (!retold_at_ || now - *retold_at_ >= kRetellingPause) {
                retold_at_ = now;
                owner_.wants_everything_ = true;
            }
            first = oldest;
        }
        replies_.push_back({std::move(frames[0]), first, clock_.now() + kReplyPatience});
    }

    /// Goes on with the answers. True: none of their clients takes more now.
    bool answer() {
        bool is_full = true;
        for (std::size_t i = replies_.size(); i > 0; --i) {
            const Progress progress = answer(replies_[i - 1]);
            if (progress != Progress::full) { is_full = false; }
            if (progress == Progress::ended) { replies_.erase(replies_.begin() + static_cast<std::ptrdiff_t>(i - 1)); }
        }
        return is_full;
    }

    enum class Progress : std::uint8_t { some, full, ended };

    Progress answer(Reply& reply) {
        for (std::size_t batch = 0; batch < kReplyPart; ++batch) {
            const std::uint64_t oldest = next_number_ - kept_.size();
            reply.next = std::max(reply.next, oldest);  // it took too long, and sees what it missed
            const bool is_end = reply.next >= next_number_;
            if (!Frame(reply.client).send(sockets_.router, true)) {
                if (zmq_errno() == EAGAIN && clock_.now() < reply.give_up) { return Progress::full; }
                replays_given_up_.Increment();  // it has gone, or takes nothing
                return Progress::ended;
            }
            Frame().send(sockets_.router, true);
            if (is_end) {
                Frame().send(sockets_.router, true);
                big_endian_frame(~std::uint64_t{0}).send(sockets_.router, true);
                Frame().send(sockets_.router, false);
                replays_complete_.Increment();
                return Progress::ended;
            }
            Frame(topic_).send(sockets_.router, true);
            big_endian_frame(reply.next).send(sockets_.router, true);
            Frame(kept_[static_cast<std::size_t>(reply.next - oldest)].payload).send(sockets_.router, false);
            ++reply.next;
            reply.give_up = clock_.now() + kReplyPatience;
        }
        return Progress::some;
    }

    KvEventPublisher& owner_;
    Sockets& sockets_;
    const base::Clock& clock_;
    const Frame topic_;
    prometheus::Counter &sent_, &full_;
    prometheus::Counter &replays_complete_, &replays_late_, &replays_given_up_, &replays_refused_;
    std::uint64_t next_number_ = 0;
    std::deque<Kept> kept_;  // numbers without gaps, up to next_number_
    std::size_t kept_bytes_ = 0;
    std::vector<Reply> replies_;
    std::optional<base::TimePoint> retold_at_;
};

KvEventPublisher::KvEventPublisher(Options options, base::Metrics& metrics)
    : options_(std::move(options)),
      queue_(options_.queue_batches_max),
      dropped_(Desk::batches(metrics, options_.worker, "dropped")),
      sockets_(std::make_unique<Sockets>()) {}

base::Result<std::unique_ptr<KvEventPublisher>> KvEventPublisher::start(Options options, const base::Clock& clock,
                                                                        base::Metrics& metrics) {
    std::unique_ptr<KvEventPublisher> made(new KvEventPublisher(std::move(options), metrics));
    Sockets& sockets = *made->sockets_;
    if (sockets.context == nullptr || sockets.event < 0) {
        return base::fail(ErrorCode::resource_exhausted, "no file descriptor is left for KV events");
    }
    const std::size_t batches_max = made->options_.subscriber_batches_max;
    auto bound = sockets.bind(sockets.publisher, ZMQ_PUB, made->options_.endpoint, batches_max);
    if (!bound) { return base::pass_on(bound); }
    made->endpoint_ = std::move(*bound);
    if (!made->options_.replay_endpoint.empty()) {
        auto replay = sockets.bind(sockets.router, ZMQ_ROUTER, made->options_.replay_endpoint, batches_max);
        if (!replay) { return base::pass_on(replay); }
        made->replay_endpoint_ = std::move(*replay);
    }
    made->desk_ = std::make_unique<Desk>(*made, clock, metrics);
    made->thread_ = std::thread([desk = made->desk_.get()] { desk->run(); });
    return made;
}

KvEventPublisher::~KvEventPublisher() {
    if (!thread_.joinable()) { return; }
    is_ending_ = true;
    wake();
    thread_.join();
}

void KvEventPublisher::wake() const {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(sockets_->event, &one, sizeof one);
}

bool KvEventPublisher::offer(KvEventBatch&& batch) {
    if (!queue_.push(std::move(batch))) {
        dropped_.Increment();
        return false;
    }
    wake();
    return true;
}

}  // namespace worker
