#include <chrono>
#include <memory>

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
using gateway::EndReason;
using proto::SequenceOutput;

constexpr base::Incarnation kPrefill{10};
constexpr base::Incarnation kDecode{20};

proto::PlaceReply split() {
    return split_placement(make_endpoint(1, 10), make_endpoint(2, 20));
}
proto::PlaceReply other_split() {
    return split_placement(make_endpoint(1, 10), make_endpoint(3, 30));
}
constexpr base::Epoch epoch(std::uint32_t number) {
    return base::Epoch{number};
}

/// Opened and placed on both workers.
struct Split : Owner {
    explicit Split(gateway::RequestOptions options = {}, std::uint32_t new_tokens_max = 8) : Owner(options) {
        id = table.open(request("hello", new_tokens_max), sink);
        table.on_place_answered(id, epoch(0), split());
    }
    ~Split() { table.cancel(id, "client_gone"); }
    RecordingSink sink;
    base::RequestId id{};
};

std::shared_ptr<const gateway::PromptHashes> hashes_of(const gateway::GenerationRequest& request,
                                                       std::uint64_t numerics_id) {
    return std::make_shared<const gateway::PromptHashes>(
        base::HashKey{},
        base::HashScope{
            .cache_scope = request.cache_scope, .numerics_id = numerics_id, .adapter = "", .block_tokens = 4},
        *request.prompt);
}

/// The chain of `tokens` in blocks of four, numerics id 77: high, then low, little-endian.
std::string wire_chain(const Tokens& tokens, const std::string& cache_scope = "") {
    std::string bytes;
    for (const base::BlockHash& hash : base::block_hash_chain(
             base::HashKey{}, {.cache_scope = cache_scope, .numerics_id = 77, .adapter = "", .block_tokens = 4},
             tokens)) {
        for (const std::uint64_t half : {hash.high, hash.low}) {
            bytes.append(reinterpret_cast<const char*>(&half), sizeof half);
        }
    }
    return bytes;
}

std::vector<std::string> kinds(const std::vector<proto::WorkerCommand>& commands) {
    std::vector<std::string> result;
    for (const auto& command : commands) {
        if (command.has_start()) { result.push_back(proto::Start::Part_Name(command.start().part())); }
        if (command.has_go_on()) { result.emplace_back("go_on"); }
        if (command.has_cancel()) { result.push_back("cancel:" + command.cancel().reason()); }
    }
    return result;
}

}  // namespace

TEST_CASE("a placement is asked for with lengths and the hashes of full blocks", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("1234567", 9);  // with BOS two blocks of four
    request.cache_scope = "salt:x";
    request.hashes = hashes_of(request, 77);
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed.size() == 1u);
    const proto::PlaceRequest& ask = owner.ports.placed[0];
    REQUIRE(ask.prompt_tokens() == 8u);
    REQUIRE(ask.new_tokens_max() == 9u);
    REQUIRE(ask.header().numerics_id() == 77u);
    REQUIRE(ask.block_hashes() == wire_chain(*owner.text.encode("1234567", true, false), "salt:x"));
    REQUIRE(ask.block_hashes().size() == 32u);
    owner.table.cancel(id, "client_gone");
    REQUIRE(sink.ends == 1);
}

TEST_CASE("a split request starts on both, the first token goes to decode, the rest comes from there",
          "[gateway][request]") {
    Split owner;
    REQUIRE(owner.sink.placed == 1);
    REQUIRE(kinds(owner.ports.sent_to(10)) == std::vector<std::string>{"PART_PREFILL"});
    REQUIRE(kinds(owner.ports.sent_to(20)) == std::vector<std::string>{"PART_DECODE"});
    REQUIRE(owner.ports.sent_to(10)[0].start().peer().incarnation() == 20u);
    REQUIRE(owner.ports.sent_to(20)[0].start().peer().incarnation() == 10u);
    REQUIRE(owner.ports.sent_to(10)[0].start().kv_mode().codec() == "test");
    REQUIRE(owner.ports.sent_to(20)[0].start().kv_mode().codec() == "test");
    REQUIRE(owner.ports.sent_to(10)[0].start().kv_source().kv_tokens() == 160u);
    REQUIRE_FALSE(owner.ports.sent_to(20)[0].start().has_kv_source());

    auto first = output(owner.id, 0, "a");
    first.set_cached_tokens(4);
    owner.clock.advance(50ms);
    owner.table.on_output(kPrefill, first);
    REQUIRE(owner.sink.text == "a");
    const auto to_decode = owner.ports.sent_to(20);
    REQUIRE(kinds(to_decode) == std::vector<std::string>{"PART_DECODE", "go_on"});
    REQUIRE(to_decode[1].go_on().tokens_size() == 1);
    REQUIRE(owner.ports.released.size() == 1u);
    REQUIRE(owner.ports.released[0].phase() == proto::ReleaseRequest::Ended::PHASE_PREFILL);
    REQUIRE(owner.ports.released[0].ttft_us() == 50'000u);

    owner.table.on_output(kPrefill, output(owner.id, 0, "", SequenceOutput::FINISH_HANDED_OVER));
    owner.clock.advance(10ms);
    owner.table.on_output(kDecode, output(owner.id, 0, "b"));
    owner.clock.advance(10ms);
    auto last = output(owner.id, 0, "c", SequenceOutput::FINISH_STOP);
    last.add_tokens()->set_token(kEos);
    owner.table.on_output(kDecode, last);
    REQUIRE(owner.sink.ends == 1);
    REQUIRE(owner.sink.text == "abc");
    REQUIRE(owner.sink.tokens == Tokens{'a', 'b', 'c'});
    REQUIRE(owner.sink.end.reason == EndReason::stop);
    REQUIRE_FALSE(owner.sink.end.stop_token);  // a plain EOS is no reason that is told
    REQUIRE(owner.sink.end.cached_tokens == 4u);
    REQUIRE(owner.sink.end.completion_tokens == 4u);
    REQUIRE(owner.sink.end.prompt_tokens == 6u);
    REQUIRE(owner.ports.released.back().phase() == proto::ReleaseRequest::Ended::PHASE_ALL);
    REQUIRE(owner.ports.sent.size() == 3u);  // nothing is left to cancel
    REQUIRE(owner.table.open_count() == 0u);
    REQUIRE(owner.table.opened() == owner.table.ended());
}

TEST_CASE("one worker for both phases gets the whole request", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request("x", 2), sink);
    owner.table.on_place_answered(id, epoch(0), local_placement(make_endpoint(2, 20)));
    REQUIRE(kinds(owner.ports.sent_to(20)) == std::vector<std::string>{"PART_WHOLE"});
    owner.table.on_output(kDecode, output(id, 0, "a"));
    owner.table.on_output(kDecode, output(id, 0, "b", SequenceOutput::FINISH_LENGTH));
    REQUIRE(sink.text == "ab");
    REQUIRE(sink.end.reason == EndReason::length);
    REQUIRE(owner.ports.sent.size() == 1u);
}

TEST_CASE("a request that ends with its first token never reaches decode, which is told", "[gateway][request]") {
    Split owner({}, 1);
    owner.table.on_output(kPrefill, output(owner.id, 0, "a", SequenceOutput::FINISH_LENGTH));
    REQUIRE(owner.sink.end.reason == EndReason::length);
    REQUIRE(kinds(owner.ports.sent_to(10)) == std::vector<std::string>{"PART_PREFILL"});
    REQUIRE(kinds(owner.ports.sent_to(20)) == std::vector<std::string>{"PART_DECODE", "cancel:finished"});
}

TEST_CASE("a stop string ends the sequence on both workers", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("x", 20);
    request.text.stop_strings = {"bc"};
    const auto id = owner.table.open(std::move(request), sink);
    owner.table.on_place_answered(id, epoch(0), split());
    owner.table.on_output(kPrefill, output(id, 0, "a"));
    owner.table.on_output(kDecode, output(id, 0, "b"));
    REQUIRE(sink.text == "a");  // "b" may be the beginning
    owner.table.on_output(kDecode, output(id, 0, "cd"));
    REQUIRE(sink.text == "a");
    REQUIRE(sink.end.reason == EndReason::stop);
    REQUIRE(sink.end.stop_string == "bc");
    REQUIRE(sink.end.completion_tokens == 3u);
    REQUIRE(kinds(owner.ports.sent_to(20)).back() == "cancel:stop_string");
    owner.table.on_output(kDecode, output(id, 0, "e"));  // late
    REQUIRE(sink.ends == 1);
}

TEST_CASE("a stream that has begun stays with its numerics when the cluster moves to others", "[gateway][request]") {
    Split owner;
    owner.table.on_output(kPrefill, output(owner.id, 0, "a"));
    auto moved = description(true, 100);
    moved.mutable_header()->set_numerics_id(88);
    owner.table.on_cluster(moved);
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(owner.ports.placed.size() == 2u);
    REQUIRE(owner.ports.placed[1].header().numerics_id() == 77u);
}

TEST_CASE("a lost decode worker is replaced and the stream goes on", "[gateway][request]") {
    Split owner;
    owner.table.on_output(kPrefill, output(owner.id, 0, "a"));
    owner.table.on_output(kDecode, output(owner.id, 0, "b"));
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(owner.sink.ends == 0);
    REQUIRE(owner.ports.placed.size() == 2u);
    REQUIRE(owner.ports.placed[1].epoch() == 1u);
    REQUIRE(owner.ports.placed[1].prompt_tokens() == 8u);
    REQUIRE(owner.ports.placed[1].new_tokens_max() == 6u);
    REQUIRE(owner.ports.placed[1].avoid_workers_size() == 1);
    REQUIRE(owner.ports.placed[1].avoid_workers(0) == 20u);
    REQUIRE(kinds(owner.ports.sent_to(10)).back() == "cancel:replaced");
    owner.table.on_place_answered(owner.id, epoch(1), other_split());
    const auto again = owner.ports.sent_to(30)[0].start();
    REQUIRE(again.epoch() == 1u);
    REQUIRE(again.generated_size() == 2);
    REQUIRE(again.sampling().seed() == 9u);
    owner.table.on_output(kDecode, output(owner.id, 0, "X"));   // late: older epoch
    owner.table.on_output(kPrefill, output(owner.id, 0, "X"));  // late: older epoch of a live worker
    owner.table.on_output(kPrefill, output(owner.id, 1, "c"));
    owner.table.on_output(base::Incarnation{30}, output(owner.id, 1, "d", SequenceOutput::FINISH_STOP));
    REQUIRE(owner.sink.text == "abcd");
    REQUIRE(owner.sink.ends == 1);
}

TEST_CASE("a prefill worker that is lost after its token is decode's matter", "[gateway][request]") {
    Split owner;
    owner.table.on_output(kPrefill, output(owner.id, 0, "a"));
    owner.table.on_worker_lost(kPrefill, {base::ErrorCode::unavailable, "gone"});
    owner.table.on_output(kPrefill, error_output(owner.id, 0, base::ErrorCode::internal));
    REQUIRE(owner.ports.placed.size() == 1u);
    owner.table.on_output(kDecode, output(owner.id, 0, "b", SequenceOutput::FINISH_STOP));
    REQUIRE(owner.sink.text == "ab");
}

TEST_CASE("either worker that fails before the first token leads to another placement", "[gateway][request]") {
    const bool is_prefill = GENERATE(true, false);
    const bool is_lost = GENERATE(true, false);
    Split owner;
    const auto worker = is_prefill ? kPrefill : kDecode;
    if (is_lost) {
        owner.table.on_worker_lost(worker, {base::ErrorCode::unavailable, "gone"});
    } else {
        owner.table.on_output(worker, error_output(owner.id, 0, base::ErrorCode::data_loss));
    }
    REQUIRE(owner.ports.placed.size() == 2u);
    REQUIRE(owner.ports.placed[1].avoid_workers(0) == base::raw(worker));
    REQUIRE(kinds(owner.ports.sent_to(is_prefill ? 20 : 10)).back() == "cancel:replaced");
    REQUIRE(kinds(owner.ports.sent_to(base::raw(worker))).size() == 1u);  // it knows already
}

TEST_CASE("an error that another worker would repeat is final", "[gateway][request]") {
    Split owner;
    owner.table.on_output(kPrefill, error_output(owner.id, 0, base::ErrorCode::invalid_argument));
    REQUIRE(owner.sink.ends == 1);
    REQUIRE(owner.sink.end.reason == EndReason::failed);
    REQUIRE(owner.sink.end.error->code == base::ErrorCode::invalid_argument);
    REQUIRE(owner.ports.placed.size() == 1u);
}

TEST_CASE("placements are bounded", "[gateway][request]") {
    Split owner({.placements_max = 3});
    for (std::uint32_t number = 0; number < 3; ++number) {
        REQUIRE(owner.sink.ends == 0);
        owner.table.on_output(kDecode, error_output(owner.id, number, base::ErrorCode::unavailable));
        if (number < 2) { owner.table.on_place_answered(owner.id, epoch(number + 1), split()); }
    }
    REQUIRE(owner.sink.ends == 1);
    REQUIRE(owner.sink.end.error->code == base::ErrorCode::unavailable);
}

TEST_CASE("a new request that is refused is told so at once, with when to come again", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    owner.table.on_place_answered(id, epoch(0), refusal(base::ErrorCode::resource_exhausted, 2500));
    REQUIRE(sink.ends == 1);
    REQUIRE(sink.placed == 0);
    REQUIRE(sink.end.error->code == base::ErrorCode::resource_exhausted);
    REQUIRE(sink.end.retry_after_ms == 2500u);
}

TEST_CASE("a model that no worker serves at the moment is unavailable, not unknown", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    owner.table.on_place_answered(id, epoch(0), refusal(base::ErrorCode::not_found, 0));
    REQUIRE(sink.end.error->code == base::ErrorCode::unavailable);
    REQUIRE(sink.end.retry_after_ms == 1000u);
}

TEST_CASE("a stream that lost its worker waits for a place, for a while", "[gateway][request]") {
    Split owner({.replace_wait_max = 2s});
    owner.table.on_output(kPrefill, output(owner.id, 0, "a"));
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    owner.table.on_place_answered(owner.id, epoch(1), refusal(base::ErrorCode::unavailable, 400));
    REQUIRE(owner.sink.ends == 0);
    REQUIRE(owner.table.wakes_at());
    owner.clock.advance(99ms);
    owner.table.on_time();
    REQUIRE(owner.ports.placed.size() == 2u);
    owner.clock.advance(1ms);
    owner.table.on_time();
    REQUIRE(owner.ports.placed.size() == 3u);
    REQUIRE(owner.ports.placed[2].avoid_workers_size() == 0);  // better the one that failed than none
    owner.clock.advance(1900ms);
    owner.table.on_place_answered(owner.id, epoch(2), refusal(base::ErrorCode::unavailable, 400));
    REQUIRE(owner.sink.ends == 1);
    REQUIRE(owner.sink.end.reason == EndReason::failed);
    REQUIRE(owner.sink.text == "a");
}

TEST_CASE("a scheduler that does not answer is asked again until the wait is over", "[gateway][request]") {
    Owner owner({.place_wait_max = 1s});
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    for (std::uint32_t number = 0; sink.ends == 0; ++number) {
        REQUIRE(number < 10u);
        owner.table.on_place_answered(id, epoch(number),
                                      tl::unexpected<base::Error>({base::ErrorCode::unavailable, "down"}));
        owner.clock.advance(250ms);
        owner.table.on_time();
    }
    REQUIRE(sink.end.error->code == base::ErrorCode::unavailable);
    REQUIRE(owner.ports.placed.size() > 1u);
}

TEST_CASE("the deadline ends a request in any phase", "[gateway][request]") {
    const int phase = GENERATE(range(0, 4));
    Owner owner;
    RecordingSink sink;
    auto request = owner.request();
    request.deadline = owner.clock.now() + 1s;
    const auto id = owner.table.open(std::move(request), sink);
    if (phase > 0) { owner.table.on_place_answered(id, epoch(0), split()); }
    if (phase > 1) { owner.table.on_output(kPrefill, output(id, 0, "a")); }
    if (phase > 2) { owner.table.on_output(kDecode, output(id, 0, "b")); }
    REQUIRE(owner.table.wakes_at() == owner.clock.now() + 1s);
    owner.clock.advance(1s);
    owner.table.on_time();
    REQUIRE(sink.ends == 1);
    REQUIRE(sink.end.error->code == base::ErrorCode::deadline_exceeded);
    if (phase > 0) { REQUIRE(kinds(owner.ports.sent_to(20)).back() == "cancel:deadline"); }
    if (phase == 0) {
        // The answer that comes now is given back.
        owner.table.on_place_answered(id, epoch(0), split());
        REQUIRE(owner.ports.sent.empty());
        REQUIRE(owner.ports.released.back().phase() == proto::ReleaseRequest::Ended::PHASE_ALL);
    }
}

TEST_CASE("a client that goes is noticed on the workers in any phase", "[gateway][request]") {
    const int phase = GENERATE(range(0, 4));
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    if (phase > 0) { owner.table.on_place_answered(id, epoch(0), split()); }
    if (phase > 1) { owner.table.on_output(kPrefill, output(id, 0, "a")); }
    if (phase > 2) { owner.table.on_output(kDecode, output(id, 0, "b")); }
    owner.table.cancel(id, "client_gone");
    owner.table.cancel(id, "client_gone");
    REQUIRE(sink.ends == 1);
    REQUIRE(sink.end.reason == EndReason::cancelled);
    if (phase > 0) {
        REQUIRE(kinds(owner.ports.sent_to(10)).back() == "cancel:client_gone");
        REQUIRE(kinds(owner.ports.sent_to(20)).back() == "cancel:client_gone");
    }
    const char* names[] = {"queued", "prefill", "transfer", "decode"};
    REQUIRE(owner.metrics.text().find("sluice_gateway_cancellations_total{cause=\"client_gone\",model=\"m\",phase=\"" +
                                      std::string(names[phase]) + "\"} 1") != std::string::npos);
}

TEST_CASE("a sink may cancel from inside an event", "[gateway][request]") {
    Split owner;
    owner.sink.when_piece = [&owner] { owner.table.cancel(owner.id, "slow_client"); };
    owner.table.on_output(kPrefill, output(owner.id, 0, "a"));
    REQUIRE(owner.sink.ends == 1);
    REQUIRE(owner.table.open_count() == 0u);
}

TEST_CASE("a worker that hands over without a token has failed", "[gateway][request]") {
    Split owner;
    owner.table.on_output(kPrefill, output(owner.id, 0, "", SequenceOutput::FINISH_HANDED_OVER));
    REQUIRE(owner.ports.placed.size() == 2u);
}

TEST_CASE("stop tokens do not count before the minimum", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("x", 8);
    request.stop_tokens = {'s', kEos};
    request.stop_tokens_asked = 1;
    request.new_tokens_min = 2;
    const auto id = owner.table.open(std::move(request), sink);
    owner.table.on_place_answered(id, epoch(0), local_placement(make_endpoint(2, 20)));
    owner.table.on_output(kDecode, output(id, 0, "sas"));
    REQUIRE(sink.text == "sa");
    REQUIRE(sink.end.stop_token == 's');
}

TEST_CASE("prompt logprobs come once, before the first piece", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("ab", 4);
    request.sampling.set_prompt_logprobs(true);
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed[0].block_hashes().empty());
    owner.table.on_place_answered(id, epoch(0), local_placement(make_endpoint(2, 20)));
    auto first = output(id, 0, "c");
    for (const char c : {'a', 'b'}) {
        first.add_prompt()->set_token(c);
        first.mutable_prompt(first.prompt_size() - 1)->set_logprob(-1);
    }
    owner.table.on_output(kDecode, first);
    REQUIRE(sink.prompt.size() == 2u);
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    owner.table.on_place_answered(id, epoch(1), local_placement(make_endpoint(3, 30)));
    REQUIRE_FALSE(owner.ports.sent_to(30)[0].start().sampling().prompt_logprobs());
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("a request has begun once a token of it was given out, not when it was asked for again",
          "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    const auto id = owner.table.open(owner.request(), sink);
    REQUIRE_FALSE(owner.ports.placed.back().begun());
    owner.table.on_place_answered(id, epoch(0), tl::unexpected<base::Error>({base::ErrorCode::deadline_exceeded, "?"}));
    auto rolled = description();
    rolled.mutable_models(0)->set_numerics_id(78);  // meanwhile the pool was replaced
    owner.table.on_cluster(rolled);
    owner.clock.advance(1s);
    owner.table.on_time();
    REQUIRE(owner.ports.placed.back().epoch() == 1u);
    REQUIRE_FALSE(owner.ports.placed.back().begun());
    REQUIRE(owner.ports.placed.back().header().numerics_id() == 78u);
    owner.table.on_place_answered(id, epoch(1), split());
    owner.table.on_worker_lost(kPrefill, {base::ErrorCode::unavailable, "gone"});
    REQUIRE_FALSE(owner.ports.placed.back().begun());  // placed, but nothing was given out
    owner.table.on_place_answered(id, epoch(2), split());
    owner.table.on_output(kPrefill, output(id, 2, "a"));
    owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(owner.ports.placed.back().begun());
    REQUIRE(owner.ports.placed.back().header().numerics_id() == 77u);
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("the chain of a sequence that is placed again covers what was generated", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("12345", 40);  // with BOS one block of four and two tokens
    request.hashes = hashes_of(request, 77);
    Tokens tokens = *request.prompt;
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed.back().block_hashes() == wire_chain(tokens));
    for (std::uint32_t round = 0; round < 6; ++round) {
        owner.table.on_place_answered(id, epoch(round), local_placement(make_endpoint(2, 20)));
        const std::string text(1 + round % 3, static_cast<char>('a' + round));  // blocks end inside and between rounds
        owner.table.on_output(kDecode, output(id, round, text));
        tokens.insert(tokens.end(), text.begin(), text.end());
        if (round == 4) { break; }  // the last placement that is allowed
        owner.table.on_worker_lost(kDecode, {base::ErrorCode::unavailable, "gone"});
        REQUIRE(owner.ports.placed.back().block_hashes() == wire_chain(tokens));
        REQUIRE(owner.ports.placed.back().prompt_tokens() == tokens.size());
    }
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("hashes of other numbers than those of the placement are not sent", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto request = owner.request("1234567", 9);
    request.hashes = hashes_of(request, 76);  // prepared before the pool was replaced
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed.back().block_hashes().empty());
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("a sequence that failed is not tried again when the budget of all is used up", "[gateway][request]") {
    Owner owner({.retries = {.share = 0, .floor_per_s = 1, .saved_max = 1}});
    RecordingSink first;
    RecordingSink second;
    const auto one = owner.table.open(owner.request(), first);
    const auto two = owner.table.open(owner.request(), second);
    owner.table.on_place_answered(one, epoch(0), split());
    owner.table.on_place_answered(two, epoch(0), split());
    owner.table.on_output(kPrefill, error_output(one, 0, base::ErrorCode::data_loss));
    owner.table.on_output(kPrefill, error_output(two, 0, base::ErrorCode::data_loss));
    REQUIRE(first.ends == 0);
    REQUIRE(second.ends == 1);
    REQUIRE(second.end.error->code == base::ErrorCode::unavailable);
    REQUIRE(second.end.error->message.find("too many sequences have failed") == 0u);
    REQUIRE(second.end.error->message.find("made to fail") == std::string::npos);  // a worker's words are for the log
    REQUIRE(second.end.retry_after_ms == 1000u);
    REQUIRE(owner.metrics.text().find("sluice_gateway_retries_exhausted_total{limit=\"budget\",model=\"m\",reason="
                                      "\"data_loss\"} 1") != std::string::npos);
    // A second later there is one again.
    owner.clock.advance(1s);
    owner.table.on_place_answered(one, epoch(1), split());
    owner.table.on_output(kPrefill, error_output(one, 1, base::ErrorCode::data_loss));
    REQUIRE(first.ends == 0);
    owner.table.cancel(one, "client_gone");
}

TEST_CASE("the tenant and the highest epoch of a scheduler go along", "[gateway][request]") {
    Owner owner;
    RecordingSink sink;
    auto cluster = description();
    cluster.set_scheduler_epoch(7);
    owner.table.on_cluster(cluster);
    auto request = owner.request();
    request.tenant = "acme";
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed[0].tenant() == "acme");
    REQUIRE(owner.ports.placed[0].scheduler_epoch() == 7u);
    auto placement = split();
    placement.set_scheduler_epoch(9);
    owner.table.on_place_answered(id, epoch(0), placement);
    REQUIRE(owner.ports.sent_to(10)[0].start().tenant() == "acme");
    REQUIRE(owner.ports.sent_to(20)[0].start().scheduler_epoch() == 9u);
    cluster.set_scheduler_epoch(8);  // an older one is still about
    owner.table.on_cluster(cluster);
    owner.table.on_worker_lost(kPrefill, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(owner.ports.placed.back().scheduler_epoch() == 9u);
    owner.table.cancel(id, "client_gone");
}

TEST_CASE("each model has its own workers, and what is known of them", "[gateway][request]") {
    Owner owner({}, make_models({"a", "b", "c"}));
    proto::DescribeReply reply;
    for (const auto& [name, numerics] : {std::pair{"b", 2u}, std::pair{"a", 1u}, std::pair{"other", 9u}}) {
        proto::ModelState& state = *reply.add_models();
        state.set_model(name);
        state.set_numerics_id(numerics);
        state.set_block_tokens(4);
        state.set_context_tokens(100 * numerics);
        state.set_ready(true);
    }
    owner.table.on_cluster(reply);
    REQUIRE(owner.table.cluster(0).context_tokens == 100u);
    REQUIRE(owner.table.cluster(1).context_tokens == 200u);
    REQUIRE(owner.table.cluster(1).ready);
    REQUIRE(owner.table.cluster(2).known);
    REQUIRE_FALSE(owner.table.cluster(2).ready);
    RecordingSink sink;
    auto request = owner.request();
    request.model = 1;
    const auto id = owner.table.open(std::move(request), sink);
    REQUIRE(owner.ports.placed[0].header().model() == "b");
    REQUIRE(owner.ports.placed[0].header().numerics_id() == 2u);
    owner.table.on_place_answered(id, epoch(0), split());
    REQUIRE(owner.ports.models == std::vector<std::string>{"b", "b"});
    owner.table.cancel(id, "client_gone");
    REQUIRE(owner.metrics.text().find("sluice_gateway_cancellations_total{cause=\"client_gone\",model=\"b\"") !=
            std::string::npos);
}

TEST_CASE("of a scheduler that knows one model the others are not ready", "[gateway][request]") {
    Owner owner({}, make_models({"a", "b"}));
    auto reply = description();
    reply.mutable_models(0)->set_model("b");
    owner.table.on_cluster(reply);
    REQUIRE_FALSE(owner.table.cluster(0).ready);
    REQUIRE(owner.table.cluster(1).ready);
}

TEST_CASE("who waits until every model is ready is told once", "[gateway][request]") {
    Owner owner({}, make_models({"m", "b"}));
    int told = 0;
    owner.table.when_ready([&] { ++told; });
    auto reply = description();
    owner.table.on_cluster(reply);
    REQUIRE(told == 0);
    *reply.add_models() = reply.models(0);
    reply.mutable_models(1)->set_model("b");
    owner.table.on_cluster(reply);
    owner.table.on_cluster(reply);
    REQUIRE(told == 1);
    owner.table.when_ready([&] { ++told; });  // it is so already
    REQUIRE(told == 2);
}

TEST_CASE("the owner of the timers is asked for each turn that a sequence needs", "[gateway][request]") {
    Owner owner;
    std::vector<base::TimePoint> wakes;
    gateway::RequestTable table({.scheduler = owner.ports,
                                 .workers = owner.ports,
                                 .models = owner.models,
                                 .clock = owner.clock,
                                 .metrics = owner.rows,
                                 .options = {},
                                 .hash_key = {},
                                 .seed = 5,
                                 .wake = [&](base::TimePoint at) { wakes.push_back(at); }});
    table.on_cluster(description());
    RecordingSink sink;
    auto request = owner.request();
    request.deadline = owner.clock.now() + 1h;
    const auto id = table.open(std::move(request), sink);
    REQUIRE(wakes == std::vector{owner.clock.now() + 1h});
    table.on_place_answered(id, epoch(0), base::fail(base::ErrorCode::unavailable, "no scheduler"));
    REQUIRE(wakes.size() == 2u);
    REQUIRE(wakes.back() == table.wakes_at());  // the next try
    REQUIRE(wakes.back() < owner.clock.now() + 1h);
    table.cancel(id, "client_gone");
    REQUIRE(wakes.size() == 2u);
}
