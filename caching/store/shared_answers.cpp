#include "caching/store/shared_answers.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/log.h"

namespace caching {
namespace {

using base::ErrorCode;

constexpr std::size_t kBatchMost = 64;
constexpr std::size_t kSweepsMost = 64;  // older ones are left out: such documents go with their time
constexpr base::Duration kWaitFirst = std::chrono::milliseconds(50);
constexpr base::Duration kWaitMost = std::chrono::seconds(2);

std::int64_t ns_of(base::TimePoint time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace

/// While it lives, the thread is at the server.
struct SharedAnswers::Exchange {
    explicit Exchange(SharedAnswers& of) : all(of) {
        all.busy_since_ns_ = std::max<std::int64_t>(ns_of(all.setup_.clock.now()), 1);
    }
    ~Exchange() { all.busy_since_ns_ = 0; }
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
    SharedAnswers& all;
};

SharedAnswers::SharedAnswers(Setup setup)
    : setup_(std::move(setup)), tasks_(setup_.tasks_max), thread_([this] { work(); }) {}

SharedAnswers::~SharedAnswers() {
    is_closing_ = true;
    tasks_.close();
}

bool SharedAnswers::look_up(const base::BlockHash& name, Found found) {
    if (!is_up_) { return false; }
    const std::int64_t busy = busy_since_ns_;
    if (busy != 0 && ns_of(setup_.clock.now()) - busy > setup_.patience.count()) { return false; }
    return tasks_.push(Ask{.name = name, .found = std::move(found)});
}

SharedMoment SharedAnswers::now() const {
    const std::scoped_lock lock(mutex_);
    return applied_;
}

bool SharedAnswers::keep(SavedAnswer answer, const SharedMoment& since) {
    const bool is_taken = is_up_ && tasks_.push(Keep{.answer = std::move(answer), .since = since});
    if (!is_taken) { ++lost_; }
    return is_taken;
}

bool SharedAnswers::purge(SharedPurge purge, std::function<void(base::Result<void>)> done) {
    return tasks_.push(Purge{.purge = std::move(purge), .done = std::move(done)});
}

bool SharedAnswers::is_current() const {
    const std::int64_t at = confirmed_at_ns_;
    return at != 0 && ns_of(setup_.clock.now()) - at < setup_.lease.count();
}

base::TimePoint SharedAnswers::next_look() const {
    if (server_ == nullptr) { return looked_at_ + wait_; }
    if (!sweeps_.empty()) { return setup_.clock.now(); }
    return looked_at_ + setup_.lease / 4;
}

void SharedAnswers::work() {
    for (;;) {
        // The queue waits by the machine's clock; the next look is by ours.
        const base::Duration left = std::max(next_look() - setup_.clock.now(), base::Duration::zero());
        auto first = tasks_.pop(std::stop_token(), std::chrono::steady_clock::now() + left);
        if (!first && is_closing_) { return; }
        std::vector<Task> tasks;
        const base::TimePoint at_once{};
        while (first) {
            tasks.push_back(std::move(*first));
            first = tasks.size() < kBatchMost ? tasks_.pop(std::stop_token(), at_once) : std::nullopt;
        }
        serve(std::move(tasks));
    }
}

void SharedAnswers::serve(std::vector<Task> tasks) {
    std::vector<Ask> asks;
    std::vector<Keep> keeps;
    std::vector<Purge> purges;
    bool is_due = false;
    for (Task& task : tasks) {
        if (auto* ask = std::get_if<Ask>(&task)) {
            asks.push_back(std::move(*ask));
        } else if (auto* keep = std::get_if<Keep>(&task)) {
            keeps.push_back(std::move(*keep));
        } else if (auto* purge = std::get_if<Purge>(&task)) {
            purges.push_back(std::move(*purge));
        } else {
            is_due = true;
        }
    }
    const bool is_there = is_connected();
    is_due = is_due || setup_.clock.now() >= looked_at_ + setup_.lease / 4;
    if (is_there && (is_due || !asks.empty())) {
        answer(asks);
    } else {
        for (Ask& ask : asks) {
            setup_.post([found = std::move(ask.found)] { found(std::nullopt); });
        }
    }
    for (Purge& purge : purges) {
        tell(purge);
    }
    if (!keeps.empty()) { write(keeps); }
    if (tasks.empty() && server_ != nullptr && !sweeps_.empty()) { sweep(); }
}

bool SharedAnswers::is_connected() {
    if (server_ != nullptr) { return true; }
    const base::TimePoint now = setup_.clock.now();
    if (is_closing_ || now < looked_at_ + wait_) { return false; }
    looked_at_ = now;
    auto server = SharedServer::connect(setup_.server);
    if (!server) {
        lose(server.error());
        return false;
    }
    server_ = std::move(*server);
    const std::string& name = server_->life();
    life_ = base::keyed_hash(setup_.key, std::as_bytes(std::span(name)));
    log_.clear();
    log_end_ = 0;
    if (!read_log()) { return false; }
    follow(log_end_, now);
    spdlog::info("cache: answers are shared by {}", setup_.server.address.text());
    wait_ = {};
    was_told_away_ = false;
    is_up_ = true;
    return true;
}

void SharedAnswers::lose(const base::Error& error) {
    is_up_ = false;
    server_.reset();
    sweeps_.clear();
    wait_ = wait_ == base::Duration::zero() ? kWaitFirst : std::min(2 * wait_, kWaitMost);
    looked_at_ = setup_.clock.now();
    if (!std::exchange(was_told_away_, true)) {
        spdlog::warn("{}; until it answers the model does, also where this gateway keeps an answer", error.message);
    }
}

bool SharedAnswers::read_log() {
    const Exchange exchange(*this);
    auto log = server_->log();
    if (!log) {
        lose(log.error());
        return false;
    }
    log_end_ = log->purges;
    log_.clear();
    for (const std::string& record : log->latest) {
        log_.push_back(read_purge_bytes(record));
    }
    return true;
}

/// A look at the log, and what was asked for.
void SharedAnswers::answer(std::vector<Ask>& asks) {
    const base::TimePoint asked = setup_.clock.now();
    looked_at_ = asked;
    std::vector<base::BlockHash> names;
    for (const Ask& ask : asks) {
        names.push_back(ask.name);
    }
    base::Result<SharedServer::Documents> documents = [&] {
        const Exchange exchange(*this);
        return server_->get(names);
    }();
    if (!documents) { lose(documents.error()); }
    const bool is_known = documents && follow(documents->purges, asked);
    for (std::size_t i = 0; i < asks.size(); ++i) {
        std::optional<SavedAnswer> found;
        if (is_known && documents->found[i]) { found = judge(*documents->found[i], asks[i].name); }
        setup_.post(
            [answered = std::move(asks[i].found), found = std::move(found)]() mutable { answered(std::move(found)); });
    }
}

bool SharedAnswers::follow(std::uint64_t purges, base::TimePoint asked) {
    if (purges != log_end_ && !read_log()) { return false; }
    const SharedMoment end{.life = life_, .purges = log_end_};
    SharedMoment applied;
    {
        const std::scoped_lock lock(mutex_);
        if (is_being_applied_) { return true; }
        applied = applied_;
        is_being_applied_ = applied != end;
    }
    if (applied == end) {
        confirmed_at_ns_ = std::max<std::int64_t>(ns_of(asked), 1);
    } else {
        post_changes(applied, end);
    }
    return true;
}

void SharedAnswers::post_changes(const SharedMoment& from, const SharedMoment& to) {
    const bool is_covered = from.life == to.life && from.purges <= to.purges && to.purges - from.purges <= log_.size();
    std::vector<SharedPurge> news;
    if (is_covered) { news.assign(log_.end() - static_cast<std::ptrdiff_t>(to.purges - from.purges), log_.end()); }
    if (!is_covered) {
        confirmed_at_ns_ = 0;
        if (from.life != base::BlockHash()) {
            spdlog::warn(
                "cache: the shared server {} was started anew or has lost what was purged: everything that "
                "this gateway keeps goes",
                setup_.server.address.text());
        }
    }
    setup_.post([this, is_covered, news = std::move(news), to] {
        const bool is_done = is_covered ? std::all_of(news.begin(), news.end(), setup_.purged) : setup_.forget();
        {
            const std::scoped_lock lock(mutex_);
            if (is_done) { applied_ = to; }
            is_being_applied_ = false;
        }
        // So that it is confirmed soon; where there is no room the next look does it.
        if (is_done) { static_cast<void>(tasks_.push(Look{})); }
    });
}

bool SharedAnswers::is_purged(const SharedDocument& document) const {
    if (document.since.life != life_ || document.since.purges > log_end_ ||
        log_end_ - document.since.purges > log_.size()) {
        return true;  // nobody knows
    }
    const auto news = static_cast<std::ptrdiff_t>(log_end_ - document.since.purges);
    return std::any_of(log_.end() - news, log_.end(),
                       [&](const SharedPurge& purge) { return purge.matches(document.answer); });
}

std::optional<SavedAnswer> SharedAnswers::judge(const std::string& bytes, const base::BlockHash& name) {
    auto document = read_document(bytes, name, setup_.key);
    if (!document || is_purged(*document)) {
        ++refused_;
        return std::nullopt;
    }
    if (document->answer.expires_unix_us <= setup_.clock.unix_us()) { return std::nullopt; }
    return std::move(document->answer);
}

void SharedAnswers::write(const std::vector<Keep>& keeps) {
    std::vector<SharedServer::Put> puts;
    const std::int64_t now = setup_.clock.unix_us();
    for (const Keep& keep : keeps) {
        const std::int64_t lives_ms = (keep.answer.expires_unix_us - now) / 1000;
        if (server_ == nullptr || keep.since.life != life_ || lives_ms <= 0) { continue; }
        puts.push_back({.name = keep.answer.key,
                        .bytes = document_bytes({.answer = keep.answer, .since = keep.since}, setup_.key),
                        .lives_ms = lives_ms});
    }
    std::size_t taken = 0;
    if (!puts.empty()) {
        const Exchange exchange(*this);
        const auto put = server_->put(puts);
        if (put) { taken = *put; }
        if (!put) { lose(put.error()); }
    }
    written_ += taken;
    lost_ += keeps.size() - taken;
}

void SharedAnswers::tell(Purge& purge) {
    base::Result<void> told =
        base::fail(ErrorCode::unavailable, "the cache's shared server " + setup_.server.address.text() + " is away");
    if (server_ != nullptr) {
        const Exchange exchange(*this);
        const auto number = server_->purge(purge_bytes(purge.purge));
        if (number) {
            told = {};
            if (sweeps_.size() >= kSweepsMost) { sweeps_.pop_front(); }
            sweeps_.push_back({.purge = purge.purge, .number = *number});
        } else {
            told = base::pass_on(number);
            lose(number.error());
        }
    }
    setup_.post([done = std::move(purge.done), told] { done(told); });
}

/// One page of the server's documents: those that the oldest sweep means go.
void SharedAnswers::sweep() {
    const Exchange exchange(*this);
    Sweep& now = sweeps_.front();
    std::vector<base::BlockHash> gone;
    const auto next = server_->scan(now.cursor, [&](const base::BlockHash& name, const std::string& bytes) {
        const auto document = read_document(bytes, name, setup_.key);
        if (!document) { return; }  // another cluster's
        const bool is_older = document->since.life != life_ || document->since.purges < now.number;
        if (is_older && now.purge.matches(document->answer)) { gone.push_back(name); }
    });
    const auto erased = next ? server_->erase(gone) : base::Result<void>(base::pass_on(next));
    if (!erased) {
        lose(erased.error());
    } else if (*next == "0") {
        sweeps_.pop_front();
    } else {
        now.cursor = *next;
    }
}

}  // namespace caching
