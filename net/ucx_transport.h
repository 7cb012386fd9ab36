#pragma once

// The inside of the UCX transport: ucx.cpp has set-up and the calls from other threads, ucx_loop.cpp what its thread
// does, ucx_messages.cpp sending and receiving.

#include <ucp/api/ucp.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "net/transport.h"
#include "net/ucx.h"

namespace net {

/// What precedes the user's header in every active message. Both ends run on machines of the same byte order.
struct UcxPrefix {
    enum class Type : std::uint8_t {
        message,
        hello,      // first on a connection; the rest of the header is the initiator's address
        hello_ack,  // the other side is there
        bye,        // the connection was closed
    };

    std::uint64_t initiator;   // life of the transport that began the connection
    std::uint64_t connection;  // numbered by it, ascending
    std::uint16_t kind;
    Type type;
    std::uint8_t is_from_initiator;
    std::uint32_t reserved;
};
static_assert(sizeof(UcxPrefix) == 24);

class UcxTransport final : public Transport {
public:
    /// Takes over context and worker.
    UcxTransport(UcxOptions options, const base::Clock& clock, ucp_context_h context, ucp_worker_h worker,
                 std::string worker_address, std::size_t header_bytes_limit);
    ~UcxTransport() override;

    /// Handler and event descriptor. Error: unavailable.
    base::Result<void> prepare();

    std::string_view name() const override { return "ucx"; }
    const std::string& address() const override { return address_; }
    Limits limits() const override { return options_.limits; }
    base::Result<void> start(Handler& handler) override;
    base::Result<PeerId> connect(const std::string& address) override;
    base::Result<void> send(PeerId peer, Message message, base::TimePoint deadline, Completion done) override;
    void disconnect(PeerId peer) override;
    void stop() override;

private:
    /// How both sides name a connection.
    struct ConnectionKey {
        std::uint64_t initiator;
        std::uint64_t connection;
        bool is_ours;  // we are the initiator's end
        auto operator<=>(const ConnectionKey&) const = default;
    };

    struct Peer;

    /// One message that goes out. Lives until its completion was called.
    struct Send {
        UcxTransport* transport;
        Peer* peer;
        std::string header;  // prefix and the user's header: UCX reads it until the send has ended
        Payload payload;
        base::TimePoint deadline;
        Completion done;
        bool is_late = false;
        ucs_status_t status = UCS_INPROGRESS;
    };

    /// One payload that comes in over rendezvous.
    struct Receive {
        UcxTransport* transport;
        PeerId peer;
        ucp_ep_h endpoint;  // that it came by; null when UCX does not say
        void* descriptor;
        Target target;
        bool is_started = false;
        bool is_late = false;
        ucs_status_t status = UCS_INPROGRESS;
    };

    struct Peer {
        UcxTransport* transport;
        PeerId id;
        ConnectionKey key;
        std::string address;  // empty: not told yet
        ucp_ep_h endpoint = nullptr;
        bool is_answered = false;  // heard from it
        bool is_lost = false;      // told to the handler; waits for the end of what is under way
        bool has_failed = false;   // set by UCX's error callback
        std::string failure;
        base::TimePoint connect_deadline{};
        ucs_status_ptr_t closing = nullptr;
        std::deque<std::unique_ptr<Send>> waiting;     // for the endpoint
        std::map<Send*, std::unique_ptr<Send>> sends;  // under way
    };

    struct Connect {
        PeerId peer;
        std::string address;
    };
    struct Post {
        PeerId peer;
        std::unique_ptr<Send> send;
    };
    struct Close {
        PeerId peer;
    };
    using Command = std::variant<Connect, Post, Close>;

    // UCX's callbacks, all on the own thread inside ucp_worker_progress.
    static ucs_status_t on_message(void* self, const void* header, std::size_t header_bytes, void* data,
                                   std::size_t data_bytes, const ucp_am_recv_param_t* param);
    static void on_sent(void* request, ucs_status_t status, void* send);
    static void on_received(void* request, ucs_status_t status, std::size_t bytes, void* receive);
    static void on_endpoint_error(void* peer, ucp_ep_h endpoint, ucs_status_t status);

    bool push(Command command);  // with mutex_
    void run();
    [[nodiscard]] bool drain_commands();
    void apply(Connect& command);
    void apply(Post& command);
    void apply(Close& command);
    bool settle();
    void check_deadlines(base::TimePoint now);
    int wait_ms(base::TimePoint now) const;
    void close_all();

    ucs_status_t receive_message(const UcxPrefix& prefix, std::span<const std::byte> header, void* data,
                                 std::size_t data_bytes, const ucp_am_recv_param_t& param);
    Peer* find(const UcxPrefix& prefix) const;
    Peer* admit(const UcxPrefix& prefix, std::span<const std::byte> hello);
    void open_endpoint(Peer& peer);
    void post(Peer& peer, std::unique_ptr<Send> send);
    void post_control(Peer& peer, UcxPrefix::Type type, const std::string& body);
    void start_receive(Receive& receive);
    void finish(std::unique_ptr<Send> send, base::Result<void> outcome);
    void lose(Peer& peer, const std::string& why, bool say_bye);
    void lose_endpoint(ucp_ep_h endpoint, PeerId peer, const std::string& why);

    const UcxOptions options_;
    const base::Clock& clock_;
    const ucp_context_h context_;
    const ucp_worker_h worker_;
    const std::uint64_t self_;  // the life
    const std::string address_;
    const std::size_t header_bytes_limit_;  // of UCX
    int event_descriptor_ = -1;

    std::mutex mutex_;  // guards what follows
    std::vector<Command> commands_;
    std::map<std::string, PeerId> by_address_;  // live
    std::set<PeerId> live_;
    std::size_t posted_ = 0;  // sends whose completion was not called yet
    std::uint64_t peers_minted_ = 0;
    bool is_running_ = false;
    bool stop_requested_ = false;

    // Of the own thread.
    Handler* handler_ = nullptr;
    std::map<PeerId, std::unique_ptr<Peer>> peers_;
    std::size_t sends_moving_ = 0;                         // of all peers
    std::size_t peers_lost_ = 0;                           // of peers_, not ended yet
    std::map<ConnectionKey, Peer*> by_key_;                // not lost
    std::map<std::uint64_t, std::uint64_t> closed_until_;  // initiator -> its highest connection that we have lost
    std::vector<Peer*> to_adopt_;                          // said hello
    std::vector<Peer*> said_bye_;
    std::map<Receive*, std::unique_ptr<Receive>> receives_;
    std::vector<Send*> sent_;         // ended inside progress
    std::vector<Receive*> received_;  // ended inside progress
    std::vector<Receive*> to_start_;
    bool has_failures_ = false;

    std::jthread thread_;
};

/// "net::connect: Endpoint timeout".
std::string describe(const char* what, ucs_status_t status);

}  // namespace net
