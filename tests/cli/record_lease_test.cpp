// What every lease promises that is one record with versions, whatever keeps it: over a store in memory, whose answers
// get lost as the test says.
#include "cli/record_lease.h"

#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.h"

using base::ErrorCode;
using cli::RecordLease;
using scheduler::LeaderTerm;
using namespace std::chrono_literals;

namespace {

/// What all stores of a test share.
struct Record {
    std::optional<LeaderTerm> term;
    std::uint64_t version = 0;
    bool is_down = false;             // nothing is answered, nothing is written
    bool loses_next_answer = false;   // of a write, which is done
    std::vector<LeaderTerm> written;  // in order
};

class MemoryStore final : public cli::TermStore {
public:
    explicit MemoryStore(Record& record) : record_(record) {}

    base::Result<LeaderTerm> read() override {
        if (record_.is_down) { return down(); }
        version_ = record_.term ? record_.version : 0;
        known_ = record_.term.value_or(LeaderTerm());
        return *known_;
    }
    base::Result<bool> write(const LeaderTerm& term) override {
        if (record_.is_down) { return down(); }
        if (version_ != (record_.term ? record_.version : 0)) { return false; }
        record_.term = term;
        ++record_.version;
        record_.written.push_back(term);
        if (std::exchange(record_.loses_next_answer, false)) { return down(); }
        version_ = record_.version;
        known_ = term;
        return true;
    }
    std::optional<LeaderTerm> known() const override { return known_; }
    bool is_there() const override { return version_ != 0; }

private:
    static tl::unexpected<base::Error> down() { return base::fail(ErrorCode::unavailable, "no answer"); }

    Record& record_;
    std::uint64_t version_ = 0;
    std::optional<LeaderTerm> known_ = LeaderTerm();
};

std::unique_ptr<RecordLease> lease_of(Record& record) {
    return std::make_unique<RecordLease>(std::make_unique<MemoryStore>(record));
}

LeaderTerm term(std::uint64_t serial, const std::string& holder, std::uint64_t beat = 0) {
    LeaderTerm made;
    made.serial = serial;
    made.epoch = 1000 + serial;
    made.holder = holder;
    made.beat = beat;
    return made;
}

}  // namespace

TEST_CASE("a term is begun over what was seen, and over nothing else", "[cli]") {
    Record record;
    const auto a = lease_of(record);
    const auto b = lease_of(record);
    REQUIRE(a->look().value() == LeaderTerm());
    REQUIRE(b->look().value() == LeaderTerm());
    REQUIRE_FALSE(a->begin(term(7, "x"), term(8, "a")).value());  // nobody has seen that
    REQUIRE(a->begin({}, term(1, "a")).value());
    REQUIRE_FALSE(b->begin({}, term(1, "b")).value());  // a was quicker
    REQUIRE(b->look().value() == term(1, "a"));
    REQUIRE(a->renew(term(1, "a", 1)).value());
    REQUIRE_FALSE(b->begin(term(1, "a"), term(2, "b")).value());  // a has renewed since
    REQUIRE(b->look().value() == term(1, "a", 1));
    REQUIRE(b->begin(term(1, "a", 1), term(2, "b")).value());
    REQUIRE_FALSE(a->renew(term(1, "a", 2)).value());
    REQUIRE_FALSE(a->renew(term(1, "a", 3)).value());  // and never again without a new term
    a->resign();                                       // no effect: its term is over
    REQUIRE(record.term == term(2, "b"));
}

TEST_CASE("a renewal is found again whose answer was lost, whose record was written by others, or is gone", "[cli]") {
    Record record;
    const auto a = lease_of(record);
    REQUIRE(a->look());
    REQUIRE(a->begin({}, term(1, "a")).value());
    SECTION("a lost answer") {
        record.loses_next_answer = true;
        REQUIRE(a->renew(term(1, "a", 1)).error().code == ErrorCode::unavailable);
        REQUIRE(a->renew(term(1, "a", 2)).value());
        REQUIRE(record.term == term(1, "a", 2));
    }
    SECTION("the store was down for a while") {
        record.is_down = true;
        REQUIRE(a->renew(term(1, "a", 1)).error().code == ErrorCode::unavailable);
        record.is_down = false;
        REQUIRE(a->renew(term(1, "a", 2)).value());
    }
    SECTION("somebody wrote who leads nothing") {
        ++record.version;
        REQUIRE(a->renew(term(1, "a", 1)).value());
    }
    SECTION("it was taken away") {
        record.term.reset();
        REQUIRE(a->renew(term(1, "a", 1)).value());
        REQUIRE(record.term == term(1, "a", 1));
    }
    SECTION("but not one that was ended by hand") {
        record.term->over = true;
        ++record.version;
        REQUIRE_FALSE(a->renew(term(1, "a", 1)).value());
    }
    SECTION("nor one that was taken away and begun by another") {
        record.term.reset();
        const auto b = lease_of(record);
        REQUIRE(b->look());
        REQUIRE(b->begin({}, term(1, "b")).value());
        REQUIRE_FALSE(a->renew(term(1, "a", 1)).value());
        REQUIRE(record.term == term(1, "b"));
    }
}

TEST_CASE("a begin whose answer was lost has not begun, and its holder does not lead by it", "[cli]") {
    Record record;
    const auto a = lease_of(record);
    REQUIRE(a->look());
    record.loses_next_answer = true;
    REQUIRE(a->begin({}, term(1, "a")).error().code == ErrorCode::unavailable);
    REQUIRE_FALSE(a->renew(term(1, "a", 1)).value());
    REQUIRE(a->look().value() == term(1, "a"));  // as another's: it is silent, and taken over when its lease is over
    REQUIRE(a->begin(term(1, "a"), term(2, "a")).value());
}

TEST_CASE("a lease that goes is given back", "[cli]") {
    Record record;
    {
        const auto a = lease_of(record);
        REQUIRE(a->look());
        REQUIRE(a->begin({}, term(1, "a")).value());
    }
    REQUIRE(record.term->over);
    REQUIRE(record.written.size() == 2);
    CHECK(lease_of(record)->pause(2000ms) == 500ms);
    CHECK(lease_of(record)->pause(60s) == 2000ms);
    CHECK(RecordLease::request_time(2000ms) == 400ms);
    CHECK(record.written.size() == 2);  // who has no term gives none back
}

TEST_CASE("whatever is lost, each term has one holder and follows the one before", "[cli][property]") {
    const auto seed = GENERATE(range(0u, 100u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto one_in = [&](unsigned n) { return random() % n == 0; };
    Record record;
    constexpr std::size_t kSchedulers = 3;
    struct Scheduler {
        std::unique_ptr<RecordLease> lease;
        LeaderTerm seen;
        std::optional<LeaderTerm> ours;
    };
    std::vector<Scheduler> all(kSchedulers);
    for (Scheduler& one : all) {
        one.lease = lease_of(record);
    }
    for (int step = 0; step < 300; ++step) {
        const std::size_t index = random() % kSchedulers;
        Scheduler& one = all[index];
        record.is_down = one_in(8);
        record.loses_next_answer = one_in(6);
        const std::uint64_t serial_before = record.term ? record.term->serial : 0;
        if (one.ours) {
            if (one_in(20)) {
                one.lease->resign();
                one.ours.reset();
                continue;
            }
            LeaderTerm next = *one.ours;
            ++next.beat;
            const auto renewed = one.lease->renew(next);
            if (!renewed) { continue; }
            // It goes on as long as nobody else has begun one, and no longer.
            REQUIRE(*renewed == (serial_before == next.serial));
            if (*renewed) {
                one.ours = next;
            } else {
                one.ours.reset();
            }
        } else if (const auto seen = one.lease->look(); seen && one_in(2)) {
            one.seen = *seen;
            const LeaderTerm ours = term(one.seen.serial + 1, std::to_string(index));
            if (const auto begun = one.lease->begin(one.seen, ours); begun && *begun) { one.ours = ours; }
        }
    }
    std::map<std::uint64_t, std::string> holders;
    std::uint64_t serial = 0;
    std::uint64_t version = 0;
    for (const LeaderTerm& written : record.written) {
        ++version;
        REQUIRE((written.serial == serial || written.serial == serial + 1));
        serial = written.serial;
        REQUIRE(holders.emplace(serial, written.holder).first->second == written.holder);
    }
    REQUIRE(version == record.version);
    REQUIRE(serial > 1);
}
