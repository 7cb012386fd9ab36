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

bool WriteBehind::push(StoreChange change) {
    const bool is_taken = changes_.push(std::move(change));
    if (!is_taken) { ++lost_; }
    return is_taken;
}

void WriteBehind::write() {
    // Until the queue is closed and empty; never stopped in between.
    std::vector<StoreChange> owed;  // what was to go in batches that were not taken: it must not come back
    while (auto first = changes_.pop(std::stop_token())) {
        std::vector<StoreChange> batch = std::exchange(owed, {});
        batch.push_back(std::move(*first));
        const base::TimePoint now{};  // what is there already, without waiting
        for (std::size_t more = 1; more < options_.batch_max; ++more) {
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
        for (StoreChange& change : batch) {
            const bool is_erasure = std::holds_alternative<ErasedAnswers>(change) ||
                                    std::holds_alternative<ErasedQuestions>(change) ||
                                    std::holds_alternative<ErasedExamples>(change);
            if (is_erasure && owed.size() < options_.changes_max) { owed.push_back(std::move(change)); }
        }
        lost_ += batch.size() - owed.size();
        if (is_well_.exchange(false)) { spdlog::warn("{}; answers are kept in memory only", written.error().message); }
    }
}

}  // namespace caching
