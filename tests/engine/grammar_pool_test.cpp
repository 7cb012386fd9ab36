#include "engine/grammar_pool.h"

#include <boost/json.hpp>
#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "text/model_text.h"
#include "text/tokenizer.h"

#include "tests/support/catch.h"

namespace {

using engine::GrammarKind;

constexpr std::chrono::seconds kPatience{60};
constexpr std::uint32_t kVocabulary = 512;  // of stories260k

const text::ModelText& stories() {
    static const text::ModelText model = text::ModelText::load(SLUICE_SOURCE_DIR "/models/stories260k").value();
    return model;
}

engine::GrammarPool::LoadVocabulary loader() {
    return [] { return text::GrammarVocabulary::make(*stories().tokenizer, stories().eos_ids, kVocabulary); };
}

bool is_eos(base::TokenId token) {
    const auto& ids = stories().eos_ids;
    return std::find(ids.begin(), ids.end(), token) != ids.end();
}

std::vector<base::TokenId> allowed(std::span<const std::uint32_t> words) {
    std::vector<base::TokenId> tokens;
    for (std::uint32_t token = 0; token < kVocabulary; ++token) {
        if ((words[token / 32] >> (token % 32) & 1U) != 0) { tokens.push_back(static_cast<base::TokenId>(token)); }
    }
    return tokens;
}

std::vector<std::uint32_t> words_of(const engine::LateMask& mask) {
    const auto words = mask.wait(std::chrono::steady_clock::now() + kPatience);
    REQUIRE(words);
    return {words->begin(), words->end()};
}

/// The answer of a model that knows nothing: any token that may come, each as likely.
std::vector<base::TokenId> random_answer(engine::Grammars& grammars, const engine::GrammarSpec& spec,
                                         std::uint32_t seed, std::size_t most) {
    std::mt19937 random(seed);
    const auto sequence = grammars.begin(spec, [] {});
    std::vector<base::TokenId> answer;
    while (answer.size() < most) {
        const auto tokens = allowed(words_of(*sequence->next(answer, std::nullopt)));
        REQUIRE(!tokens.empty());
        answer.push_back(tokens[random() % tokens.size()]);
        if (is_eos(answer.back())) { break; }
    }
    return answer;
}

const std::string kSchema = R"({"type":"object","properties":{"name":{"enum":["Lily","Tom"]},)"
                            R"("age":{"type":"integer","minimum":0,"maximum":99},"good":{"type":"boolean"}},)"
                            R"("required":["name","age","good"],"additionalProperties":false})";

}  // namespace

TEST_CASE("a model that knows nothing keeps to a schema", "[engine][property]") {
    engine::GrammarPool pool(loader(), kVocabulary, {});
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    const auto answer = random_answer(pool, {GrammarKind::json_schema, kSchema}, seed, 2000);
    REQUIRE(is_eos(answer.back()));
    const std::string text = stories().tokenizer->decode(answer);
    CAPTURE(text);
    const boost::json::object object = boost::json::parse(text).as_object();
    REQUIRE(object.size() == 3);
    REQUIRE((object.at("name") == "Lily" || object.at("name") == "Tom"));
    const auto age = object.at("age").as_int64();
    REQUIRE((age >= 0 && age <= 99));
    REQUIRE(object.at("good").is_bool());
}

TEST_CASE("masks follow from the tokens alone, wherever a sequence goes on", "[engine][property]") {
    engine::GrammarPool pool(loader(), kVocabulary, {.mask_threads = 2});
    engine::GrammarPool elsewhere(loader(), kVocabulary, {});
    const engine::GrammarSpec spec{GrammarKind::json_schema, kSchema};
    const auto answer = random_answer(pool, spec, 7, 2000);
    const auto at_once = pool.begin(spec, [] {});
    for (std::size_t count = 0; count < answer.size(); ++count) {
        const std::span<const base::TokenId> so_far = std::span(answer).first(count);
        const auto moved = elsewhere.begin(spec, [] {});
        REQUIRE(words_of(*at_once->next(so_far, std::nullopt)) == words_of(*moved->next(so_far, std::nullopt)));
    }
    REQUIRE(elsewhere.compilations() == 1);
}

TEST_CASE("a mask may allow one token more than its grammar", "[engine]") {
    engine::GrammarPool pool(loader(), kVocabulary, {});
    const engine::GrammarSpec spec{GrammarKind::json_schema, kSchema};
    const auto sequence = pool.begin(spec, [] {});
    const auto plain = allowed(words_of(*sequence->next({}, std::nullopt)));
    REQUIRE(std::find(plain.begin(), plain.end(), 300) == plain.end());
    auto more = allowed(words_of(*sequence->next({}, 300)));
    REQUIRE(more.size() == plain.size() + 1);
    REQUIRE(std::find(more.begin(), more.end(), 300) != more.end());
    REQUIRE(allowed(words_of(*sequence->next({}, std::nullopt))) == plain);
}

TEST_CASE("every kind of grammar gives what it says", "[engine]") {
    engine::GrammarPool pool(loader(), kVocabulary, {});
    const auto text_of = [&](GrammarKind kind, const std::string& source) {
        return stories().tokenizer->decode(random_answer(pool, {kind, source}, 3, 4000));
    };
    const std::string chosen = text_of(GrammarKind::choice, R"(["yes","no","may\"be"])");
    REQUIRE((chosen == "yes" || chosen == "no" || chosen == "may\"be"));
    const std::string digits = text_of(GrammarKind::regex, "[0-9]{3}-[0-9]{4}");
    CAPTURE(digits);
    REQUIRE(digits.size() == 8);
    REQUIRE(digits[3] == '-');
    REQUIRE(text_of(GrammarKind::lark, "start: \"a\" b\nb: \"b\" | \"c\"").substr(0, 1) == "a");
}

TEST_CASE("a grammar that cannot be compiled fails its masks and nobody else's", "[engine]") {
    engine::GrammarPool pool(loader(), kVocabulary, {});
    const auto broken = pool.begin({GrammarKind::json_schema, R"({"type":"object","not":{}})"}, [] {});
    const auto mask = broken->next({}, std::nullopt);
    const auto words = mask->wait(std::chrono::steady_clock::now() + kPatience);
    REQUIRE(!words);
    REQUIRE(words.error().code == base::ErrorCode::invalid_argument);
    REQUIRE(words.error().message.find("not") != std::string::npos);

    const auto wrong = pool.begin({GrammarKind::choice, R"(["yes"])"}, [] {});
    const std::vector<base::TokenId> tokens{300};
    REQUIRE(!wrong->next(tokens, std::nullopt)->wait(std::chrono::steady_clock::now() + kPatience));

    const auto right = pool.begin({GrammarKind::choice, R"(["yes"])"}, [] {});
    REQUIRE(right->next({}, std::nullopt)->wait(std::chrono::steady_clock::now() + kPatience));
}

TEST_CASE("compiled grammars are kept within a bound", "[engine]") {
    engine::GrammarPool pool(loader(), kVocabulary, {.compiled_max = 2});
    const auto use = [&](const std::string& word) {
        const auto sequence = pool.begin({GrammarKind::choice, "[\"" + word + "\"]"}, [] {});
        words_of(*sequence->next({}, std::nullopt));
    };
    for (const char* word : {"a", "b", "a", "c", "a"}) {
        use(word);
    }
    REQUIRE(pool.compilations() == 3);
    use("b");  // had to go for c
    REQUIRE(pool.compilations() == 4);
}

TEST_CASE("a sequence may end while its grammar is compiled or its mask is made", "[engine]") {
    engine::GrammarPool pool(loader(), kVocabulary, {.mask_threads = 2, .compile_threads = 2});
    for (int round = 0; round < 50; ++round) {
        auto sequence = pool.begin({GrammarKind::json_schema, kSchema}, [] {});
        if (round % 2 == 0) { sequence->next({}, std::nullopt); }
        sequence.reset();
    }
}
