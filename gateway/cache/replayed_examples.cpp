// The part of LiveExamples that has examples answered again (ExampleReplay says when).
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "caching/semantic/words.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/live_examples.h"
#include "gateway/cache/routed_context.h"
#include "gateway/openai/request_form.h"

namespace gateway {

RequestForm LiveExamples::Replay::form(std::size_t model, const std::string& question,
                                       caching::ShownExample shown) const {
    const std::string examples =
        shown.question.empty() ? std::string() : caching::render_examples(std::span(&shown, 1));
    RequestForm form = *asked;
    form.model = model;
    form.template_context = with_question(asked->template_context, question, examples);
    form.user_text_bytes += question.size() + examples.size();
    return form;
}

bool LiveExamples::ReplayedAnswer::is_same() const {
    return caching::canonical_text(answer) == caching::canonical_text(replay.answer);
}

void LiveExamples::remember(const base::BlockHash& partition, const RequestForm& form,
                            std::size_t question_bytes) const {
    if (asked_.contains(partition) || setup_.settings.replay_forms_max == 0) { return; }
    if (asked_.size() >= setup_.settings.replay_forms_max) {
        asked_.erase(asked_order_.front());
        asked_order_.pop_front();
    }
    auto kept = std::make_shared<RequestForm>(form);
    kept->user_text_bytes -= std::min(question_bytes, kept->user_text_bytes);
    kept->stream = kept->include_usage = kept->continuous_usage = false;
    kept->seed.reset();
    kept->request_id.clear();
    kept->session.clear();
    kept->prompt_cache_key.clear();
    kept->slo = {};
    kept->cache_texts.reset();
    kept->routed.reset();
    asked_.emplace(partition, std::move(kept));
    asked_order_.push_back(partition);
}

bool LiveExamples::next_replay(std::vector<caching::ExampleId> passed,
                               std::function<void(std::optional<Replay>)> done) {
    return tasks_.push([this, passed = std::move(passed), done = std::move(done)](caching::InContextCache& cache) {
        auto found = cache.next_replay([&](const caching::Example& example) {
            return example.revision == served_large_ && asked_.contains(example.partition) &&
                   std::find(passed.begin(), passed.end(), example.id) == passed.end();
        });
        std::optional<Replay> replay;
        if (found) {
            auto asked = asked_.at(found->partition);
            replay = Replay{.what = std::move(*found), .asked = std::move(asked)};
        }
        setup_.post([done, replay = std::move(replay)] { done(replay); });
    });
}

bool LiveExamples::replayed(ReplayedAnswer answered, std::function<void(std::string_view outcome)> done) {
    return tasks_.push([this, answered = std::move(answered), done = std::move(done)](caching::InContextCache& cache) {
        const auto worth = [&](const std::vector<std::string>& said) {
            double sum = 0;
            for (std::size_t at = 0; at < said.size(); ++at) {
                sum += answer_likeness(embedder_, said[at], answered.replay.trials[at].answer);
            }
            return sum / static_cast<double>(said.size());
        };
        const bool is_tried = !answered.answer.empty() && !answered.after.empty() &&
                              answered.after.size() == answered.before.size() &&
                              answered.after.size() <= answered.replay.trials.size();
        const double better =
            is_tried ? worth(answered.after) - worth(answered.before) : std::numeric_limits<double>::quiet_NaN();
        std::string_view outcome = answered.answer.empty() ? "failed" : answered.is_same() ? "same" : "no_better";
        switch (cache.replayed(answered.replay, answered.answer, better)) {
            case caching::InContextCache::Replayed::better:
                outcome = "better";
                break;
            case caching::InContextCache::Replayed::gone:
                outcome = "gone";
                break;
            case caching::InContextCache::Replayed::no_better:
                break;
        }
        setup_.post([done, outcome] { done(outcome); });
    });
}

}  // namespace gateway
