#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

namespace gateway {

/// Bytes of requests between the first of their bodies and the start of their sequences, of all and of each payer.
/// Thread-safe.
class ByteAccount : public std::enable_shared_from_this<ByteAccount> {
public:
    struct Options {
        std::uint64_t bytes_max;
        std::uint64_t bytes_per_payer_max;
    };
    enum class Taken { yes, all_full, payer_full };

    /// The bytes of one request; gives them back when it dies, on any thread.
    class Hold {
    public:
        Hold(std::shared_ptr<ByteAccount> account, std::string payer)
            : account_(std::move(account)), payer_(std::move(payer)) {}
        ~Hold();
        Hold(const Hold&) = delete;
        Hold& operator=(const Hold&) = delete;
        /// Counts `bytes` more, or none. One thread at a time.
        Taken add(std::uint64_t bytes);
        const std::string& payer() const { return payer_; }

    private:
        const std::shared_ptr<ByteAccount> account_;
        const std::string payer_;
        std::uint64_t bytes_ = 0;
    };

    explicit ByteAccount(Options options) : options_(options) {}
    std::shared_ptr<Hold> open(std::string payer) {
        return std::make_shared<Hold>(shared_from_this(), std::move(payer));
    }
    std::uint64_t bytes() const;

private:
    const Options options_;
    mutable std::mutex mutex_;  // guards what follows
    std::uint64_t bytes_ = 0;
    std::unordered_map<std::string, std::uint64_t> payers_;  // those that hold any
};

}  // namespace gateway
