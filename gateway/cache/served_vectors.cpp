#include "gateway/cache/served_vectors.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/check.h"

namespace gateway {
namespace {

/// A vector that comes later than the answer is still of use: the question can be kept.
constexpr base::Duration kPatience = std::chrono::seconds(5);

bool is_vector(const SharedVector& vector) {
    return vector != nullptr && !vector->empty() &&
           std::all_of(vector->begin(), vector->end(), [](float value) { return std::isfinite(value); });
}

}  // namespace

ServedVectors::~ServedVectors() {
    CHECK(open_.empty(), open_.size() << " texts have no vector and no end");
}

void ServedVectors::get(const std::string& tenant, const EncodedQuestion& question, Made made) {
    if (const auto known = by_name_.find(question.name); known != by_name_.end()) {
        kept_.splice(kept_.begin(), kept_, known->second);
        setup_.metrics.vector("kept");
        const SharedVector vector = known->second->vector;  // whoever hears it may change what is kept
        made(vector);
        return;
    }
    const auto under_way = open_.find(question.name);
    const bool is_new = under_way == open_.end();
    if (is_stopped_ || waiting_ >= setup_.texts_max || (is_new && !setup_.inner.has_room(1))) {
        setup_.metrics.vector("busy");
        made(nullptr);
        return;
    }
    ++waiting_;
    if (!is_new) {
        setup_.metrics.vector("shared");
        under_way->second->waiting.push_back(std::move(made));
        return;
    }
    auto& text = open_[question.name] = std::make_unique<Text>(*this, question.name);
    text->waiting.push_back(std::move(made));
    GenerationRequest request;
    request.encodes = true;
    request.model = setup_.model;
    request.tenant = tenant;
    request.prompt = question.tokens;
    request.received_at = setup_.clock.now();
    request.deadline = request.received_at + kPatience;
    Text* const opened = text.get();
    const base::RequestId id = setup_.inner.open(std::move(request), *opened);
    // It may be over, and the same text asked for anew, from inside.
    const auto same = open_.find(question.name);
    if (same != open_.end() && same->second.get() == opened) { opened->id = id; }
}

void ServedVectors::ended(const base::BlockHash& name, const GenerationEnd& end) {
    const auto at = open_.find(name);
    CHECK(at != open_.end());
    const std::shared_ptr<Text> text = std::move(at->second);
    open_.erase(at);
    waiting_ -= text->waiting.size();
    setup_.post([text] {});  // its own call is on the stack
    if (is_stopped_) { return; }
    const bool is_made = end.reason == EndReason::stop && is_vector(text->vector);
    setup_.metrics.vector(is_made ? "made" : "failed");
    if (is_made) { keep(name, text->vector); }
    for (const Made& made : text->waiting) {
        made(is_made ? text->vector : nullptr);
    }
}

void ServedVectors::keep(const base::BlockHash& name, const SharedVector& vector) {
    if (setup_.kept_max == 0 || by_name_.contains(name)) { return; }
    if (kept_.size() >= setup_.kept_max) {
        by_name_.erase(kept_.back().name);
        kept_.pop_back();
    }
    kept_.push_front({name, vector});
    by_name_[name] = kept_.begin();
}

void ServedVectors::stop() {
    is_stopped_ = true;
    std::vector<base::RequestId> open;
    for (const auto& [name, text] : open_) {
        if (text->id) { open.push_back(*text->id); }
    }
    for (const base::RequestId id : open) {
        setup_.inner.cancel(id, "drain");
    }
}

}  // namespace gateway
