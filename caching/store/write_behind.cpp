#include "caching/store/write_behind.h"

#include <utility>
#include <vector>

#include "base/log.h"

namespace caching {

WriteBehind::WriteBehind(std::unique_ptr<Store> store, Options options)
    : options_(options), store_(std::move(store)), changes_(options.changes_max), thread_([this] { write(); }) {}

WriteBehind::~WriteBehind() {
    changes_.close();
}

void WriteBehind::push(StoreChange change) {
    if (!changes_.push(std::move(change))) { ++lost_; }
}

void WriteBehind::write() {
    // Until the queue is closed and empty; never stopped in between.
    while (auto first = changes_.pop(std::stop_token())) {
        std::vector<StoreChange> batch;
        batch.push_back(std::move(*first));
        const base::TimePoint now{};  // what is there already, without waiting
        while (batch.size() < options_.batch_max) {
            auto next = changes_.pop(std::stop_token(), now);
            if (!next) { break; }
            batch.push_back(std::move(*next));
        }
        const auto written = store_->apply(batch);
        if (written) {
            written_ += batch.size();
            is_well_ = true;
            continue;
        }
        lost_ += batch.size();
        if (is_well_.exchange(false)) { spdlog::warn("{}; answers are kept in memory only", written.error().message); }
    }
}

}  // namespace caching
