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

/// With the model's own way to cut texts.
engine::GrammarPool::LoadVocabulary cutting_loader() {
    return [] {
        return text::GrammarVocabulary::make(*stories().tokenizer, stories().eos_ids, kVocabulary, stories().tokenizer);
    };
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

TEST_CASE("what leaves no choice comes as the tokens that the model knows it by", "[engine]") {
    const std::string text = "The little girl named Lily went to the park with her mom.";
    const engine::GrammarSpec spec{GrammarKind::regex, "The little girl named Lily went to the park with her mom[.]"};
    std::vector<base::TokenId> known = stories().tokenizer->encode("\n" + text).value();
    while (stories().tokenizer->decode(known).starts_with("\n")) {  // the line break, and a space in front of it
        known.erase(known.begin());
    }
    engine::GrammarPool pool(cutting_loader(), kVocabulary, {.forced_max = 64});
    const auto sequence = pool.begin(spec, [] {});
    const auto first = allowed(words_of(*sequence->next({}, std::nullopt)));
    const auto forced = sequence->take_forced();
    REQUIRE(forced.size() > 10);
    REQUIRE(first == std::vector<base::TokenId>{forced.front()});
    REQUIRE(std::equal(forced.begin(), forced.end(), known.begin(),
                       known.begin() + static_cast<std::ptrdiff_t>(forced.size())));
    REQUIRE(sequence->take_forced().empty());  // once
    REQUIRE(stories().tokenizer->decode(forced).size() + 8 >= text.size());

    words_of(*sequence->next(forced, 300));
    REQUIRE(sequence->take_forced().empty());  // another token may come

    engine::GrammarPool few(cutting_loader(), kVocabulary, {.forced_max = 4});
    const auto bounded = few.begin(spec, [] {});
    words_of(*bounded->next({}, std::nullopt));
    REQUIRE(bounded->take_forced() == std::vector<base::TokenId>(forced.begin(), forced.begin() + 4));

    engine::GrammarPool plain(loader(), kVocabulary, {});  // which knows no way to cut texts
    const auto unforced = plain.begin(spec, [] {});
    words_of(*unforced->next({}, std::nullopt));
    REQUIRE(unforced->take_forced().empty());
}

TEST_CASE("an answer with forced tokens keeps to its schema, and each of them follows from those before",
          "[engine][property]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    engine::GrammarPool pool(cutting_loader(), kVocabulary, {});
    engine::GrammarPool elsewhere(cutting_loader(), kVocabulary, {});
    const engine::GrammarSpec spec{GrammarKind::json_schema, kSchema};
    std::mt19937 random(seed);
    std::vector<base::TokenId> answer;
    std::size_t runs = 0;
    const auto sequence = pool.begin(spec, [] {});
    while (answer.size() < 2000 && (answer.empty() || !is_eos(answer.back()))) {
        const auto moved = elsewhere.begin(spec, [] {});
        const auto tokens = allowed(words_of(*sequence->next(answer, std::nullopt)));
        REQUIRE(tokens == allowed(words_of(*moved->next(answer, std::nullopt))));
        const auto forced = sequence->take_forced();
        REQUIRE(forced == moved->take_forced());
        if (forced.empty()) {
            answer.push_back(tokens[random() % tokens.size()]);
        } else {
            runs += forced.size() > 1 ? 1 : 0;
            answer.insert(answer.end(), forced.begin(), forced.end());
        }
    }
    REQUIRE(runs > 0);
    const std::string text = stories().tokenizer->decode(answer);
    CAPTURE(text);
    const boost::json::object object = boost::json::parse(text).as_object();
    REQUIRE((object.at("name") == "Lily" || object.at("name") == "Tom"));
    REQUIRE(object.at("good").is_bool());
}

TEST_CASE("a text without any choice comes as it is, however long, in parts of bounded length", "[engine]") {
    std::string text = "Caf\u00e9, na\u00efve: \U0001F431\U0001F431 \u4f60\u597d";
    const std::size_t bytes_least = GENERATE(0u, 5000u);
    while (text.size() < bytes_least) {
        text += ", a little girl named Lily and " + std::to_string(text.size()) + " cats";
    }
    CAPTURE(text.substr(0, 100));
    engine::GrammarPool pool(cutting_loader(), kVocabulary, {.forced_max = 1024});
    const auto sequence = pool.begin({GrammarKind::regex, text}, [] {});
    std::vector<base::TokenId> answer;
    std::size_t longest = 0;
    while (answer.empty() || !is_eos(answer.back())) {
        REQUIRE(answer.size() < 2 * text.size());
        const auto tokens = allowed(words_of(*sequence->next(answer, std::nullopt)));
        REQUIRE(!tokens.empty());
        auto run = sequence->take_forced();
        if (run.empty()) { run.push_back(tokens.front()); }
        REQUIRE(run.front() == tokens.front());
        const std::size_t bytes = stories().tokenizer->decode(run).size();
        REQUIRE(bytes <= 1024);
        longest = std::max(longest, bytes);
        answer.insert(answer.end(), run.begin(), run.end());
    }
    REQUIRE(longest > text.size() / 8);
    answer.pop_back();
    REQUIRE(stories().tokenizer->decode(answer) == text);
}

TEST_CASE("where the model's tokenizer fails, what is forced goes by the longest tokens", "[engine]") {
    // It takes no text longer than this.
    const auto deaf = text::Tokenizer::load(SLUICE_SOURCE_DIR "/models/stories260k", {.text_bytes_max = 3}).value();
    engine::GrammarPool pool([&] { return text::GrammarVocabulary::make(*deaf, stories().eos_ids, kVocabulary, deaf); },
                             kVocabulary, {});
    const std::string text = "Lily went to the park";
    const auto sequence = pool.begin({GrammarKind::regex, text}, [] {});
    std::vector<base::TokenId> answer;
    while (answer.empty() || !is_eos(answer.back())) {
        REQUIRE(answer.size() < 2 * text.size());
        const auto tokens = allowed(words_of(*sequence->next(answer, std::nullopt)));
        auto run = sequence->take_forced();
        if (run.empty()) { run.push_back(tokens.front()); }
        answer.insert(answer.end(), run.begin(), run.end());
    }
    answer.pop_back();
    REQUIRE(stories().tokenizer->decode(answer) == text);
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
