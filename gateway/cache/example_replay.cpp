#include "gateway/cache/example_replay.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "gateway/cache/routed_context.h"

namespace gateway {
namespace {

constexpr base::Duration kHour = std::chrono::hours(1);
constexpr base::Duration kLook = std::chrono::seconds(1);               // between two looks at the load,
constexpr base::Duration kLookAtWork = std::chrono::milliseconds(100);  // while clients may have to wait for this
constexpr base::Duration kTimeout = std::chrono::minutes(5);            // of a sequence: nobody waits for it
constexpr std::size_t kFruitlessMost = 3;

}  // namespace

/// A sequence that nobody asked for.
struct ExampleReplay::Asking final : GenerationSink {
    Asking(ExampleReplay& of, std::uint64_t of_number, std::size_t most) : by(of), number(of_number), text_max(most) {}
    void on_placed() override {}
    void on_prompt(std::vector<TokenRecord>) override {}  // never asked for
    void on_piece(Piece piece, std::uint32_t, std::string_view) override {
        if (text.size() <= text_max) { text += piece.text; }
    }
    void on_end(const GenerationEnd& end) override { by.ended(*this, end); }

    ExampleReplay& by;
    const std::uint64_t number;  // of its play
    const std::size_t text_max;
    std::string text = {};
    std::optional<base::RequestId> id = {};
};

bool ExampleReplay::is_busy() const {
    const double threshold = setup_.settings.learning.load_threshold;
    const double in_work = static_cast<double>(setup_.large_in_work());
    return 2 * in_work > threshold * static_cast<double>(setup_.settings.large_sequences) ||
           2 * std::max(setup_.loads[setup_.small], setup_.loads[setup_.large]) > threshold;
}

std::optional<base::TimePoint> ExampleReplay::tick(base::TimePoint now) {
    if (setup_.settings.replays_per_hour == 0 || is_stopped_ || !prepare_) { return std::nullopt; }
    if (is_busy()) {
        quiet_since_.reset();
        if (play_ && !play_->is_told) { give_way(); }
        return now + kLook;
    }
    if (!quiet_since_) { quiet_since_ = now; }
    if (!play_ && now >= std::max(due_, *quiet_since_ + setup_.settings.replay_idle)) { begin(now); }
    return now + (play_ ? kLookAtWork : kLook);
}

void ExampleReplay::begin(base::TimePoint now) {
    due_ = now + kHour / static_cast<std::int64_t>(setup_.settings.replays_per_hour);
    play_ = std::make_unique<Play>();
    play_->number = next_++;
    const auto tell = [this, number = play_->number](std::optional<LiveExamples::Replay> replay) {
        chosen(number, std::move(replay));
    };
    if (!setup_.choose(passed_, tell)) { play_.reset(); }
}

void ExampleReplay::chosen(std::uint64_t number, std::optional<LiveExamples::Replay> replay) {
    if (!is_current(number)) { return; }
    if (!replay) {
        play_.reset();
        if (!passed_.empty()) { rest(); }
        return;
    }
    passed_.push_back(replay->what.example);
    play_->replay = std::move(replay);
    play_->said.replay = play_->replay->what;
    go_on();
}

void ExampleReplay::go_on() {
    const LiveExamples::Replay& replay = *play_->replay;
    LiveExamples::ReplayedAnswer& said = play_->said;
    if (said.answer.empty()) {
        ask([replay, temperature = setup_.settings.replay_temperature, large = setup_.large] {
            RequestForm form = replay.form(large, replay.what.question, {});
            form.temperature = temperature;
            return form;
        });
        return;
    }
    if (said.is_same() || said.after.size() == replay.what.trials.size()) {
        tell(std::move(said));
        return;
    }
    const bool is_before = said.before.size() == said.after.size();
    ask([replay, small = setup_.small, at = said.after.size(), answer = is_before ? replay.what.answer : said.answer] {
        RequestForm form = replay.form(small, replay.what.trials[at].question, {replay.what.question, answer});
        form.temperature = 0;
        return form;
    });
}

void ExampleReplay::ask(std::function<RequestForm()> make) {
    prepare_(
        play_->replay->what.tenant, std::move(make),
        [this, number = play_->number](ApiResult<PreparedRequest> prepared) { open(number, std::move(prepared)); });
}

void ExampleReplay::open(std::uint64_t number, ApiResult<PreparedRequest> prepared) {
    if (!is_current(number)) { return; }
    if (!prepared) {
        tell({.replay = play_->replay->what});
        return;
    }
    if (!setup_.inner.has_room(1)) {
        give_way();
        return;
    }
    const std::size_t model = prepared->form.model;
    GenerationRequest request = generation_request(*prepared, 0, 0, number, *setup_.models[model].text);
    request.tenant = play_->replay->what.tenant;
    request.received_at = setup_.clock.now();
    request.deadline = request.received_at + kTimeout;
    const auto asking = std::make_shared<Asking>(*this, number, setup_.settings.learning.example_bytes_max);
    play_->asking = asking;
    asking->id = setup_.inner.open(std::move(request), *asking);
}

void ExampleReplay::ended(Asking& asking, const GenerationEnd& end) {
    if (!is_current(asking.number) || play_->asking.get() != &asking) { return; }
    const auto self = std::exchange(play_->asking, nullptr);
    setup_.post([self] {});  // it stays until what is on the stack has been done
    LiveExamples::ReplayedAnswer& said = play_->said;
    const std::string text = without_reasoning(asking.text);
    // What is cut off is no example. Of the small model it is what there is to compare.
    const bool is_whole = end.reason == EndReason::stop && asking.text.size() <= asking.text_max && !text.empty();
    const bool is_trial = !said.answer.empty();
    if (is_trial ? end.reason != EndReason::stop && end.reason != EndReason::length : !is_whole) {
        tell({.replay = play_->replay->what});
        return;
    }
    if (!is_trial) {
        said.answer = text;
    } else {
        (said.before.size() == said.after.size() ? said.before : said.after).push_back(text);
    }
    go_on();
}

void ExampleReplay::tell(LiveExamples::ReplayedAnswer said) {
    const auto heard = [this, number = play_->number](std::string_view outcome) {
        count(outcome);
        if (!is_current(number)) { return; }
        play_.reset();
        fruitless_ = outcome == "better" ? 0 : fruitless_ + 1;
        if (fruitless_ >= kFruitlessMost) { rest(); }
    };
    play_->is_told = true;
    if (setup_.tell(std::move(said), heard)) { return; }
    count("busy");
    play_.reset();
}

/// Whoever ranks lower brings still less: another round when things have changed.
void ExampleReplay::rest() {
    passed_.clear();
    fruitless_ = 0;
    due_ = std::max(due_, setup_.clock.now() + kHour);
}

void ExampleReplay::give_way() {
    const std::shared_ptr<Asking> asking = play_->asking;
    if (play_->replay) { passed_.pop_back(); }  // its turn comes again
    play_.reset();
    count("gave_way");
    if (asking && asking->id) {
        setup_.post([asking] {});
        setup_.inner.cancel(*asking->id, "replay");
    }
}

void ExampleReplay::count(std::string_view outcome) {
    setup_.metrics
        .counter("sluice_gateway_in_context_replays_total",
                 "Examples that were to be answered again, by what came of it", {{"outcome", std::string(outcome)}})
        .Increment();
}

void ExampleReplay::stop() {
    is_stopped_ = true;
    if (play_ && !play_->is_told) { give_way(); }
}

}  // namespace gateway
