#include "gateway/http/byte_account.h"

namespace gateway {

ByteAccount::Taken ByteAccount::Hold::add(std::uint64_t bytes) {
    if (bytes == 0) { return Taken::yes; }
    const std::scoped_lock lock(account_->mutex_);
    const Options& options = account_->options_;
    const auto payer = account_->payers_.find(payer_);
    const std::uint64_t held = payer == account_->payers_.end() ? 0 : payer->second;
    if (bytes > options.bytes_max - account_->bytes_) { return Taken::all_full; }
    if (held + bytes > options.bytes_per_payer_max) { return Taken::payer_full; }
    account_->bytes_ += bytes;
    account_->payers_[payer_] = held + bytes;
    bytes_ += bytes;
    return Taken::yes;
}

ByteAccount::Hold::~Hold() {
    if (bytes_ == 0) { return; }
    const std::scoped_lock lock(account_->mutex_);
    account_->bytes_ -= bytes_;
    const auto payer = account_->payers_.find(payer_);
    payer->second -= bytes_;
    if (payer->second == 0) { account_->payers_.erase(payer); }
}

std::uint64_t ByteAccount::bytes() const {
    const std::scoped_lock lock(mutex_);
    return bytes_;
}

}  // namespace gateway
