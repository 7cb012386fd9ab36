#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "kv_transfer/tier/s3_signature.h"

namespace test_support {

/// A small server that speaks as much of S3 as Sluice asks for, checks every signature, and fails when it is told to.
/// (That ours is the signature that others know is shown against AWS's examples, and against moto in
/// tests/integration/test_kv_s3.py.) Listens on a port of its own of 127.0.0.1. All methods from any thread.
class S3Server {
public:
    enum class Fault : std::uint8_t {
        none,
        close,    // the connection ends without an answer
        refuse,   // 403
        error,    // 503
        full,     // 507
        cut,      // of a body only the first half comes, then the connection ends
        shorter,  // the answer says that there are fewer bytes
        longer,   // or more
        corrupt,  // a bit is another one
        swapped,  // another object's bytes come
        forget,   // what was put or removed is answered and not done
        silent,   // no answer, until the client gives up
    };
    struct Call {
        std::string method;
        std::string key;  // empty: a list
    };
    using Objects = std::map<std::string, std::string>;  // content by key

    S3Server(std::string bucket, kv_transfer::S3Credentials credentials);
    ~S3Server();
    S3Server(const S3Server&) = delete;
    S3Server& operator=(const S3Server&) = delete;

    /// "http://127.0.0.1:PORT".
    std::string endpoint() const;
    /// What to do with each request from now on; not called at the same time. Empty: nothing fails.
    void set_faults(std::function<Fault(const Call&)> faults);
    void set_credentials(kv_transfer::S3Credentials credentials);
    Objects objects() const;
    void set_objects(Objects objects);
    std::size_t calls() const;
    /// Requests whose signature was not what these credentials give.
    std::size_t wrong_signatures() const;

private:
    struct Request {
        Call call;
        std::string path;
        std::string query;
        std::map<std::string, std::string> headers;  // names in lower case
        std::string body;
    };
    struct Connection {
        int descriptor = -1;  // -1: it has ended
        std::thread thread;
    };

    void accept_all();
    void serve(int descriptor);
    static bool read_request(int descriptor, std::string& received, Request& request);
    bool is_signed(const Request& request) const;
    /// Status and body; the body has to be an object's where `is_object`.
    std::pair<int, std::string> answer(const Request& request, Fault fault, bool& is_object);
    std::string list(const Request& request) const;

    const std::string bucket_;
    int listener_ = -1;
    int port_ = 0;
    mutable std::mutex mutex_;
    kv_transfer::S3Credentials credentials_;    // guarded by mutex_
    std::function<Fault(const Call&)> faults_;  // guarded by mutex_
    Objects objects_;                           // guarded by mutex_
    std::size_t calls_ = 0;                     // guarded by mutex_
    std::size_t wrong_signatures_ = 0;          // guarded by mutex_
    bool ends_ = false;                         // guarded by mutex_
    std::list<Connection> connections_;         // guarded by mutex_ but for the threads
    std::thread accepting_;
};

}  // namespace test_support
